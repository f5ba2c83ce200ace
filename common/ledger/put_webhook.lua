-- An endpoint as it is from now on; nothing where it is not as we know it. Returns the id of the one that stands, or
-- 'conflict'. ARGV: owner, id, how many an owner may have, as it was or '' (there was none), as it is, idempotency key
-- and digest of the request (each or '')
local mine, id, idem, digest = p .. 'wo:' .. ARGV[1], ARGV[2], ARGV[6], ARGV[7]
local now = redis.call('HGET', mine, id) or ''
if now == ARGV[5] then return id end -- its reply was lost
local same = known(idem, digest, function(other) return redis.call('HEXISTS', mine, other) == 1 end)
if same then return same end
if now ~= ARGV[4] or now == '' and redis.call('HLEN', mine) >= tonumber(ARGV[3]) then return nil end
redis.call('HSET', mine, id, ARGV[5])
keep(idem, id, digest)
return id
