-- A file is there no more; its bytes may go. ARGV: id, owner or '' (whoever it is). Returns 1 if it was there, also to
-- who asks again because the reply was lost.
local id, gone = ARGV[1], p .. 'fd:' .. ARGV[1]
local owner = redis.call('HGET', p .. 'f:' .. id, 'owner') or redis.call('GET', gone)
if not owner or (ARGV[2] ~= '' and owner ~= ARGV[2]) then return 0 end
redis.call('SET', gone, owner, 'EX', 2592000)
redis.call('DEL', p .. 'f:' .. id)
redis.call('ZREM', p .. 'fo:' .. owner, id)
redis.call('ZREM', p .. 'fx', id)
return 1
