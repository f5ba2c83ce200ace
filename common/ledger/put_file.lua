-- A file whose bytes are all there. ARGV: id, owner, how many an owner may have, expires or '', its fields
local id, owner, mine = ARGV[1], ARGV[2], p .. 'fo:' .. ARGV[2]
if redis.call('ZSCORE', mine, id) then -- its reply was lost, or it has grown
  redis.call('HSET', p .. 'f:' .. id, unpack(ARGV, 5))
  return 1
end
if redis.call('ZCARD', mine) >= tonumber(ARGV[3]) then return 0 end
local at = redis.call('TIME')
redis.call('HSET', p .. 'f:' .. id, unpack(ARGV, 5))
redis.call('ZADD', mine, string.format('%d.%06d', at[1], at[2]), id)
if ARGV[4] ~= '' then redis.call('ZADD', p .. 'fx', ARGV[4], id) end
return 1
