-- A lease: taken if free, kept if already ours. ARGV: key's name, holder, ms
local key = p .. 'lease:' .. ARGV[1]
local holder = redis.call('GET', key)
if holder and holder ~= ARGV[2] then return 0 end
redis.call('SET', key, ARGV[2], 'PX', ARGV[3])
return 1
