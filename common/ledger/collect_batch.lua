-- The lines of so many ended rows are written and synced. Nothing where another was quicker.
-- ARGV: bid, rows taken before, how many now, output segment or '', error segment or '', completed, failed, then
-- the tokens of the completed ones: input, cached, output
local bid, key, ended = ARGV[1], p .. 'bat:' .. ARGV[1], p .. 'ended:' .. ARGV[1]
if redis.call('HGET', key, 'taken') ~= ARGV[2] then return 0 end
redis.call('HINCRBY', key, 'taken', ARGV[3])
redis.call('HINCRBY', key, 'completed', ARGV[6])
redis.call('HINCRBY', key, 'failed', ARGV[7])
for i, name in ipairs({'input', 'cached', 'output'}) do redis.call('HINCRBY', key, name .. '_tokens', ARGV[7 + i]) end
for i, kind in ipairs({'output', 'error'}) do
  if ARGV[3 + i] ~= '' then
    redis.call('HSET', key, 'has_' .. kind, 1)
    redis.call('RPUSH', p .. 'bs:' .. bid .. ':' .. kind, ARGV[3 + i])
  end
end
for _, jid in ipairs(redis.call('LRANGE', ended, 0, ARGV[3] - 1)) do
  if string.sub(jid, 1, 1) ~= '{' then
    redis.call('EXPIRE', p .. 'j:' .. jid, 3600)
    redis.call('EXPIRE', p .. 't:' .. jid, 3600)
  end
end
redis.call('LTRIM', ended, ARGV[3], -1)
return 1
