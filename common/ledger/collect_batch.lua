-- The lines of so many ended rows are written and synced. Nothing where another was quicker.
-- ARGV: bid, rows taken before, rows fed before, how many now, output segment or '', error segment or '', completed,
-- failed, then the tokens of the completed ones: input, cached, output; then which of them are not among those fed: they
-- are kept as they are, for SUBMIT must know them when they come again, however late
local bid, key, ended = ARGV[1], p .. 'bat:' .. ARGV[1], p .. 'ended:' .. ARGV[1]
local told = redis.call('HMGET', key, 'taken', 'row')
if told[1] ~= ARGV[2] or told[2] ~= ARGV[3] then return 0 end
redis.call('HINCRBY', key, 'taken', ARGV[4])
redis.call('HINCRBY', key, 'completed', ARGV[7])
redis.call('HINCRBY', key, 'failed', ARGV[8])
for i, name in ipairs({'input', 'cached', 'output'}) do redis.call('HINCRBY', key, name .. '_tokens', ARGV[8 + i]) end
for i, kind in ipairs({'output', 'error'}) do
  if ARGV[4 + i] ~= '' then
    redis.call('HSET', key, 'has_' .. kind, 1)
    redis.call('RPUSH', p .. 'bs:' .. bid .. ':' .. kind, ARGV[4 + i])
  end
end
local untold = {}
for i = 12, #ARGV do untold[ARGV[i]] = true end
for _, jid in ipairs(redis.call('LRANGE', ended, 0, ARGV[4] - 1)) do
  if string.sub(jid, 1, 1) ~= '{' and not untold[jid] then
    redis.call('EXPIRE', p .. 'j:' .. jid, 3600)
    redis.call('EXPIRE', p .. 't:' .. jid, 3600)
  end
end
redis.call('LTRIM', ended, ARGV[4], -1)
return 1
