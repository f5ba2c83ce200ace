-- An endpoint as it is from now on; nothing where it is not as we know it. ARGV: owner, id, how many an owner may have,
-- as it was or '' (there was none), as it is
local mine, id = p .. 'wo:' .. ARGV[1], ARGV[2]
local now = redis.call('HGET', mine, id) or ''
if now == ARGV[5] then return 1 end -- its reply was lost
if now ~= ARGV[4] or now == '' and redis.call('HLEN', mine) >= tonumber(ARGV[3]) then return 0 end
redis.call('HSET', mine, id, ARGV[5])
return 1
