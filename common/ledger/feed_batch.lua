-- Rows were submitted up to here; those that could not be are ended as errors. Nothing where another was quicker.
-- ARGV: bid, row before, row after, offset after, errors...
local key = p .. 'bat:' .. ARGV[1]
local told = redis.call('HMGET', key, 'state', 'row')
if told[1] ~= 'in_progress' and told[1] ~= 'cancelling' or told[2] ~= ARGV[2] then return 0 end
redis.call('HSET', key, 'row', ARGV[3], 'offset', ARGV[4])
for i = 5, #ARGV do redis.call('RPUSH', p .. 'ended:' .. ARGV[1], ARGV[i]) end
return 1
