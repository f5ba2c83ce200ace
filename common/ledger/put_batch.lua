-- A batch, once or not at all. ARGV: bid, owner, how many may be open, its fields
local bid, mine = ARGV[1], p .. 'boo:' .. ARGV[2]
if redis.call('EXISTS', p .. 'bat:' .. bid) == 1 then return 1 end -- its reply was lost
if redis.call('SCARD', mine) >= tonumber(ARGV[3]) then return 0 end
local at = redis.call('TIME')
redis.call('HSET', p .. 'bat:' .. bid, 'row', 0, 'offset', 0, 'taken', 0, 'completed', 0, 'failed', 0, unpack(ARGV, 4))
redis.call('ZADD', p .. 'bo:' .. ARGV[2], string.format('%d.%06d', at[1], at[2]), bid)
redis.call('SADD', mine, bid)
redis.call('SADD', p .. 'bats', bid)
return 1
