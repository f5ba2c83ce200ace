-- A front end lives. ARGV: front end
local t = redis.call('TIME')
redis.call('ZADD', p .. 'fes', string.format('%.3f', tonumber(t[1]) + tonumber(t[2]) / 1000000), ARGV[1])
return 1
