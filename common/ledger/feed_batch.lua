-- Rows were submitted up to here; those that were not are ended as these lines. Nothing where another was quicker.
-- ARGV: bid, row before, row after, offset after, what was asked for up to here, lines...
local key = p .. 'bat:' .. ARGV[1]
local told = redis.call('HMGET', key, 'state', 'row')
if told[1] ~= 'in_progress' and told[1] ~= 'cancelling' or told[2] ~= ARGV[2] then return 0 end
redis.call('HSET', key, 'row', ARGV[3], 'offset', ARGV[4], 'asked', ARGV[5])
for i = 6, #ARGV do redis.call('RPUSH', p .. 'ended:' .. ARGV[1], ARGV[i]) end
return 1
