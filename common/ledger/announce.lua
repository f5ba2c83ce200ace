-- Before every script: ends are put down for the webhooks of their owner, in the step in which they happen.
-- An endpoint's queue is called by who: its owner and id.
local p = KEYS[1] .. ':'

local function clock()
  local t = redis.call('TIME')
  return tonumber(t[1]) + tonumber(t[2]) / 1000000
end

-- Its turn comes with its first delivery, but behind all whose turn it is already.
local function look_at(who, at)
  local first = redis.call('ZRANGE', p .. 'wq:' .. who, 0, 0, 'WITHSCORES')
  if first[2] then redis.call('ZADD', p .. 'wn', math.max(at, tonumber(first[2])), who)
  else redis.call('ZREM', p .. 'wn', who) end
end

local function deliver(who, name, at)
  if redis.call('ZCARD', p .. 'wq:' .. who) >= 10000 then return redis.call('HINCRBY', p .. 'wc', 'dropped', 1) end
  redis.call('ZADD', p .. 'wq:' .. who, at, name)
  redis.call('ZADD', p .. 'wn', 'LT', at, who)
end

local function announce(owner, event, id, at)
  local mine = redis.call('HGETALL', p .. 'wo:' .. owner)
  for i = 1, #mine, 2 do
    for _, wanted in ipairs(cjson.decode(mine[i + 1]).events) do
      if wanted == event then
        deliver(owner .. ':' .. mine[i], string.format('%s %s %d', event, id, math.floor(at)), at)
      end
    end
  end
end
