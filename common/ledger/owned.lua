-- An owner's jobs that are kept, the newest first, behind one of them; a hundred are looked at.
-- ARGV: owner, jid or '', then names of fields and what they must hold. Returns ids, and behind whom to go on or ''.
local mine, start = p .. 'o:' .. ARGV[1], 0
if ARGV[2] ~= '' then
  local rank = redis.call('ZREVRANK', mine, ARGV[2])
  if not rank then return {{}, ''} end -- it is too old to be listed, and so is what came before it
  start = rank + 1
end
local ids, found = redis.call('ZREVRANGE', mine, start, start + 99), {}
for _, jid in ipairs(ids) do
  local job = fields(jid, 'owner', 'state', 'model', 'share')
  local fits = job.owner == ARGV[1]
  for i = 3, #ARGV, 2 do fits = fits and job[ARGV[i]] == ARGV[i + 1] end
  if fits then found[#found + 1] = jid end
end
return {found, ids[100] or ''}
