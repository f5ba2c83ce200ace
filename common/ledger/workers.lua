-- Who beat within the lease, and what they said. ARGV: lease in seconds
local t = redis.call('TIME')
local since = tonumber(t[1]) + tonumber(t[2]) / 1000000 - tonumber(ARGV[1])
local out = {}
for _, wid in ipairs(redis.call('ZRANGEBYSCORE', p .. 'workers', string.format('%.3f', since), '+inf')) do
  local info = redis.call('HMGET', p .. 'wi:' .. wid, 'model', 'slots', 'free', 'state', 'tokens_per_s', 'gauges')
  if info[1] then out[#out + 1] = {wid, unpack(info)} end
end
return out
