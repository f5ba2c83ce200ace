-- From one state to the next, with fields; nothing where another was quicker. ARGV: bid, from, to, '1' if it ends, fields
local bid, key = ARGV[1], p .. 'bat:' .. ARGV[1]
local told = redis.call('HMGET', key, 'state', 'owner')
if told[1] ~= ARGV[2] then return 0 end
redis.call('HSET', key, 'state', ARGV[3], unpack(ARGV, 5))
if ARGV[4] == '1' then
  redis.call('SREM', p .. 'bats', bid)
  redis.call('SREM', p .. 'boo:' .. told[2], bid)
  for _, name in ipairs({key, p .. 'ended:' .. bid, p .. 'bs:' .. bid .. ':output', p .. 'bs:' .. bid .. ':error'}) do
    redis.call('EXPIRE', name, 2592000)
  end
  announce(told[2], 'batch.' .. ARGV[3], bid, clock())
end
return 1
