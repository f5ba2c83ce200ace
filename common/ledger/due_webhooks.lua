-- Endpoints whose turn it is, whoever waits longest first. ARGV: how many
return redis.call('ZRANGEBYSCORE', p .. 'wn', '-inf', clock(), 'LIMIT', 0, ARGV[1])
