-- Before every script: what an idempotency key stands for, which is forgotten after a day.

-- The id of what an equal request made, while it is good; 'conflict' where the request was another one.
local function known(idem, digest, is_good)
  if idem == '' then return nil end
  local told = redis.call('HMGET', p .. 'idem:' .. idem, 'id', 'digest')
  if not told[1] or not is_good(told[1]) then return nil end
  return told[2] == digest and told[1] or 'conflict'
end

local function keep(idem, id, digest)
  if idem == '' then return end
  redis.call('HSET', p .. 'idem:' .. idem, 'id', id, 'digest', digest)
  redis.call('EXPIRE', p .. 'idem:' .. idem, 86400)
end
