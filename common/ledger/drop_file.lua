-- A file is there no more; its bytes may go. ARGV: id, owner or '' (whoever it is). Returns 1 if it was there.
local id, owner = ARGV[1], redis.call('HGET', p .. 'f:' .. ARGV[1], 'owner')
if not owner or (ARGV[2] ~= '' and owner ~= ARGV[2]) then return 0 end
redis.call('SET', p .. 'fd:' .. id, 1, 'EX', 2592000)
redis.call('DEL', p .. 'f:' .. id)
redis.call('ZREM', p .. 'fo:' .. owner, id)
redis.call('ZREM', p .. 'fx', id)
return 1
