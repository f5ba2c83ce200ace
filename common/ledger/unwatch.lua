-- UNWATCH: front ends no longer listen to a job; a 'cancel' job that nobody watches is noted with the time.
-- ARGV: front end, then job ids; or front end, '', its beat: forget the whole front end if its beat is still that one
local fid = ARGV[1]
local at = clock()
local jids = {unpack(ARGV, 2)}
if jids[1] == '' then
  if redis.call('ZSCORE', p .. 'fes', fid) ~= jids[2] then return 0 end
  jids = redis.call('SMEMBERS', p .. 'fw:' .. fid)
end
for _, jid in ipairs(jids) do
  local job = fields(jid, 'state', 'fe', 'on_disconnect')
  if job.state then
    local left = {}
    for fe in string.gmatch(job.fe or '', '[^,]+') do if fe ~= fid then left[#left + 1] = fe end end
    set_listeners(jid, table.concat(left, ','))
    if #left == 0 and job.on_disconnect == 'cancel' and (job.state == 'queued' or job.state == 'running') then
      redis.call('ZADD', p .. 'un', 'NX', stamp(at), jid)
    end
  end
  redis.call('SREM', p .. 'fw:' .. fid, jid)
end
if ARGV[2] == '' then redis.call('ZREM', p .. 'fes', fid) end
return #jids
