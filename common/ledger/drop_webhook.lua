-- An endpoint is there no more, nor is what waits for it. ARGV: owner, id
local who = ARGV[1] .. ':' .. ARGV[2]
redis.call('HDEL', p .. 'wo:' .. ARGV[1], ARGV[2])
redis.call('DEL', p .. 'wq:' .. who, p .. 'wt:' .. who)
redis.call('ZREM', p .. 'wn', who)
return 1
