-- A file whose bytes are all there. What was deleted stays deleted, and what has grown does not shrink again.
-- ARGV: id, owner, how many an owner may have, expires or '', size, its fields
local id, owner, mine = ARGV[1], ARGV[2], p .. 'fo:' .. ARGV[2]
if redis.call('EXISTS', p .. 'fd:' .. id) == 1 then return 1 end
local size = redis.call('HGET', p .. 'f:' .. id, 'size')
if size then
  if tonumber(ARGV[5]) > tonumber(size) then redis.call('HSET', p .. 'f:' .. id, unpack(ARGV, 6)) end
  return 1
end
if redis.call('ZCARD', mine) >= tonumber(ARGV[3]) then return 0 end
local at = redis.call('TIME')
redis.call('HSET', p .. 'f:' .. id, unpack(ARGV, 6))
redis.call('ZADD', mine, string.format('%d.%06d', at[1], at[2]), id)
if ARGV[4] ~= '' then redis.call('ZADD', p .. 'fx', ARGV[4], id) end
return 1
