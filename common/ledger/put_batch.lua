-- A batch, once or not at all. Returns the id of the one that stands, 'conflict', or nothing where too many are open.
-- ARGV: bid or '' (what stands is only asked for), owner, how many may be open, idempotency key and digest of the
-- request (each or ''), its fields
local bid, mine, idem, digest = ARGV[1], p .. 'boo:' .. ARGV[2], ARGV[4], ARGV[5]
if redis.call('EXISTS', p .. 'bat:' .. bid) == 1 then return bid end -- its reply was lost

-- As of a job: it neither ended badly nor is about to.
local function is_good(other)
  local state = redis.call('HGET', p .. 'bat:' .. other, 'state')
  return state and not string.find(' failed expired cancelling cancelled ', ' ' .. state .. ' ', 1, true)
end

local same = known(idem, digest, is_good)
if same or bid == '' then return same end
if redis.call('SCARD', mine) >= tonumber(ARGV[3]) then return nil end
local at = redis.call('TIME')
redis.call('HSET', p .. 'bat:' .. bid, 'row', 0, 'offset', 0, 'taken', 0, 'completed', 0, 'failed', 0, unpack(ARGV, 6))
redis.call('ZADD', p .. 'bo:' .. ARGV[2], string.format('%d.%06d', at[1], at[2]), bid)
redis.call('SADD', mine, bid)
redis.call('SADD', p .. 'bats', bid)
keep(idem, bid, digest)
return bid
