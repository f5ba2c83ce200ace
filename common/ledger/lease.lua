-- A lease: taken if free, kept if already ours, given back. ARGV: key's name, holder, ms or 0
local key = p .. 'lease:' .. ARGV[1]
local holder = redis.call('GET', key)
if holder and holder ~= ARGV[2] then return 0 end
if ARGV[3] == '0' then redis.call('DEL', key) else redis.call('SET', key, ARGV[2], 'PX', ARGV[3]) end
return 1
