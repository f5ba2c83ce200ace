-- An endpoint, its first delivery that is due, and how often that was tried; nothing where none is. ARGV: owner, id
local who, at = ARGV[1] .. ':' .. ARGV[2], clock()
local name = redis.call('ZRANGEBYSCORE', p .. 'wq:' .. who, '-inf', at, 'LIMIT', 0, 1)[1]
if name then
  return {redis.call('HGET', p .. 'wo:' .. ARGV[1], ARGV[2]), name, redis.call('HGET', p .. 'wt:' .. who, name) or '0'}
end
look_at(who, at)
return false
