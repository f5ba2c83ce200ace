-- EMIT: fence, log, state and one publish per watching front end, for all jobs of a step.
-- ARGV: wid, model, the jobs' heads in one (it packs and unpacks quicker), then all their items. A head, see wire.HEAD:
-- jid, epoch, after: how many items it believes are stored, tokens it has generated, items, their end as a place in ENDS
local HEAD, ENDS = 51, {'done', 'failed', 'cancelled', 'expired'}
local wid, model, heads = ARGV[1], ARGV[2], ARGV[3]
local at = clock()
local fenced, gone, behind, groups = {}, {}, {}, {}

local jids = {}
for place = 1, #heads, HEAD do jids[#jids + 1] = string.sub(heads, place, place + 33) end
local held = redis.call('HMGET', held_key(wid), unpack(jids))

-- Its items to the log, from ARGV[from] on; false where that is not as long as believed: then nothing has changed.
local function store(jid, after, from, n)
  local log, stored = p .. 't:' .. jid
  if n == 1 then stored = redis.call('RPUSH', log, ARGV[from])
  else
    for first = from, from + n - 1, 1000 do -- unpack holds a few thousand values
      stored = redis.call('RPUSH', log, unpack(ARGV, first, math.min(first + 999, from + n - 1)))
    end
  end
  if stored == after + n then return true end
  redis.call('RPOP', log, n)
  if stored ~= after + n + n then -- else said before: the reply was lost
    behind[#behind + 1] = jid
    behind[#behind + 1] = tostring(stored - n)
  end
  return false
end

-- Not this worker's to speak of: unless its end was said before, and the reply was lost.
local function refuse(jid, epoch, after, n)
  local job = fields(jid, 'state', 'epoch', 'worker')
  if not job.state then gone[#gone + 1] = jid
  elseif job.worker ~= wid or tonumber(job.epoch) ~= epoch or n == 0 or log_length(jid) ~= after + n then
    fenced[#fenced + 1] = jid
  end
end

local from = 4
for k, jid in ipairs(jids) do
  local epoch, after, tokens, n, ended = struct.unpack('>I4I4I4I4B', heads, (k - 1) * HEAD + 35)
  local own, end_at, claimed
  if held[k] then own, end_at, claimed = struct.unpack(HELD, held[k]) end
  if own ~= epoch then refuse(jid, epoch, after, n)
  elseif n > 0 then
    local last, state = from + n - 1, ENDS[ended]
    if state == 'done' and redis.call('HEXISTS', p .. 'j:' .. jid, 'cancel') == 1 then
      ARGV[last], state = CANCELLED, 'cancelled' -- a cancel that was accepted holds
    end
    if store(jid, after, from, n) then
      local fes = string.sub(held[k], FE_AT)
      if fes ~= '' then
        local group = groups[fes]
        if not group then group = {}; groups[fes] = group end
        local items = n == 1 and ARGV[from] or table.concat(ARGV, '\31', from, last)
        group[#group + 1] = record(jid, claimed, after + 1, state and '1' or '0', items)
      end
      if state then finish(jid, state, tokens, at)
      elseif at >= end_at then redis.call('SADD', p .. 'c:' .. wid, jid) end
    end
  end
  from = from + n
end

-- Front ends that watch the same jobs together, taken apart: each gets one message.
local messages = {}
for fes, group in pairs(groups) do
  for fe in string.gmatch(fes, '[^,]+') do
    local message = messages[fe]
    if not message then message = {}; messages[fe] = message end
    for _, one in ipairs(group) do message[#message + 1] = one end
  end
end
for fe, message in pairs(messages) do redis.call('PUBLISH', 'fe:' .. fe, table.concat(message, '\30')) end
local cancelled, expired = ending(wid)
return {fenced, gone, behind, cancelled, expired, ready(model)}
