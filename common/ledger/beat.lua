-- BEAT: a worker lives, says what it has room for, adds to the counters, and hears who waits and what to end.
-- ARGV: wid, model, number of info values, name, value..., then counters: name, value...
local wid, model = ARGV[1], ARGV[2]
local at = clock()
local n = tonumber(ARGV[3])
redis.call('ZADD', p .. 'workers', stamp(at), wid)
redis.call('HSET', p .. 'wi:' .. wid, unpack(ARGV, 4, 3 + n))
redis.call('EXPIRE', p .. 'wi:' .. wid, 3600)
for i = 4 + n, #ARGV, 2 do redis.call('HINCRBYFLOAT', p .. 'ct:' .. model, ARGV[i], ARGV[i + 1]) end
local cancelled, expired = ending(wid)
return {cancelled, expired, ready(model)}
