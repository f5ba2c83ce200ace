-- BEAT: a worker lives, says what it has room for, adds to the counters, and hears who waits and what to end.
-- ARGV: wid, model, the beat's name, number of info values, name, value..., number of counters, name, value...,
-- then '' or 'held' and the jobs it holds
local wid, model, name = ARGV[1], ARGV[2], ARGV[3]
local key = p .. 'wi:' .. wid
local at = clock()
local i = 5 + tonumber(ARGV[4])
local is_new = redis.call('HGET', key, 'beat') ~= name -- counters are added once, however often the beat is sent
redis.call('HSET', key, 'beat', name, unpack(ARGV, 5, i - 1))
redis.call('ZADD', p .. 'workers', stamp(at), wid)
redis.call('EXPIRE', key, 3600)
for at_name = i + 1, i + tonumber(ARGV[i]), 2 do
  if is_new then redis.call('HINCRBYFLOAT', p .. 'ct:' .. model, ARGV[at_name], ARGV[at_name + 1]) end
end
i = i + 1 + tonumber(ARGV[i])
if ARGV[i] == 'held' then -- a CLAIM or a last EMIT that only one side remembers
  local held = {}
  for j = i + 1, #ARGV do held[ARGV[j]] = true end
  for _, jid in ipairs(redis.call('HKEYS', held_key(wid))) do
    local job = held_by(wid, jid)
    if job and not held[jid] and at > tonumber(job.claimed) + 5 then hand_back(jid, job, at) end
  end
end
local cancelled, expired = ending(wid)
return {cancelled, expired, ready(model)}
