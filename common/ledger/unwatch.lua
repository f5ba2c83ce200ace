-- UNWATCH: front ends no longer listen to a job; a 'cancel' job that nobody watches is noted with the time, which of a
-- front end that fell silent is that of its last beat, or when the last other one left.
-- ARGV: front end, then job ids; or front end, '', its beat: forget the whole front end if its beat is still that one
local fid = ARGV[1]
local since = stamp(clock())
local jids = {unpack(ARGV, 2)}
if jids[1] == '' then
  if redis.call('ZSCORE', p .. 'fes', fid) ~= jids[2] then return 0 end
  since = jids[2]
  jids = redis.call('SMEMBERS', p .. 'fw:' .. fid)
end
for _, jid in ipairs(jids) do
  local job = fields(jid, 'state', 'fe', 'on_disconnect', 'left_at')
  if job.state then
    local left = {}
    for fe in string.gmatch(job.fe or '', '[^,]+') do if fe ~= fid then left[#left + 1] = fe end end
    set_listeners(jid, table.concat(left, ','))
    local last = stamp(math.max(tonumber(since), tonumber(job.left_at or 0)))
    if #left > 0 then redis.call('HSET', p .. 'j:' .. jid, 'left_at', last)
    elseif job.on_disconnect == 'cancel' and (job.state == 'queued' or job.state == 'running') then
      redis.call('ZADD', p .. 'un', 'NX', last, jid)
    end
  end
  redis.call('SREM', p .. 'fw:' .. fid, jid)
end
if ARGV[2] == '' then redis.call('ZREM', p .. 'fes', fid) end
return #jids
