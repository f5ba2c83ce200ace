-- A file whose bytes are all there. What was deleted stays deleted, and what has grown does not shrink again.
-- Returns the id of the one that stands, 'conflict', or nothing where an owner has too many.
-- ARGV: id, owner, how many an owner may have, expires or '', size, idempotency key and digest (each or ''), its fields
local id, owner, mine, idem, digest = ARGV[1], ARGV[2], p .. 'fo:' .. ARGV[2], ARGV[6], ARGV[7]
if redis.call('EXISTS', p .. 'fd:' .. id) == 1 then return id end
local size = redis.call('HGET', p .. 'f:' .. id, 'size')
if size then
  if tonumber(ARGV[5]) > tonumber(size) then redis.call('HSET', p .. 'f:' .. id, unpack(ARGV, 8)) end
  return id
end
local same = known(idem, digest, function(other) return redis.call('EXISTS', p .. 'f:' .. other) == 1 end)
if same then return same end
if redis.call('ZCARD', mine) >= tonumber(ARGV[3]) then return nil end
local at = redis.call('TIME')
redis.call('HSET', p .. 'f:' .. id, unpack(ARGV, 8))
redis.call('ZADD', mine, string.format('%d.%06d', at[1], at[2]), id)
if ARGV[4] ~= '' then redis.call('ZADD', p .. 'fx', ARGV[4], id) end
keep(idem, id, digest)
return id
