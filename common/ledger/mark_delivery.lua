-- What became of a try. Nothing where the endpoint is gone, or another was quicker.
-- ARGV: owner, id, the delivery, tries before, outcome, seconds until the next try or '' (there is none)
local who, name, at = ARGV[1] .. ':' .. ARGV[2], ARGV[3], clock()
local queue, tries = p .. 'wq:' .. who, p .. 'wt:' .. who
if not redis.call('ZSCORE', queue, name) or (redis.call('HGET', tries, name) or '0') ~= ARGV[4] then return 0 end
redis.call('HINCRBY', p .. 'wc', ARGV[5], 1)
if ARGV[6] == '' then
  redis.call('ZREM', queue, name)
  redis.call('HDEL', tries, name)
  look_at(who, at)
else
  redis.call('HINCRBY', tries, name, 1)
  redis.call('ZADD', queue, at + tonumber(ARGV[6]), name)
  look_at(who, at + 5) -- whoever fails rests, unless something new ends
end
return 1
