-- EMIT: fence, log, state and one publish per watching front end, for all jobs of a step.
-- ARGV: wid, model, then per job: 'jid epoch after tokens items end' in one (it packs quicker), items...; after: how many
-- items it believes are stored; end: the job's end, or nothing
local wid, model = ARGV[1], ARGV[2]
local at = clock()
local fenced, gone, behind, groups = {}, {}, {}, {}

local function store(jid, key, job, ended, ntok, from, n)
  local seq, last = tonumber(job[4]), from + n - 1
  if ended == 'done' and job[9] then ARGV[last], ended = CANCELLED, 'cancelled' end -- a cancel that was accepted holds
  for first = from, last, 1000 do -- unpack holds a few thousand values
    redis.call('RPUSH', p .. 't:' .. jid, unpack(ARGV, first, math.min(first + 999, last)))
  end
  redis.call('HSET', key, 'seq', seq + n, 'ntok', tonumber(job[6]) + tonumber(ntok))
  local fes = job[5]
  if fes ~= '' then
    local group = groups[fes]
    if not group then group = {}; groups[fes] = group end
    group[#group + 1] = record(jid, job[8], seq + 1, ended == '' and 0 or 1, ARGV, from, last)
  end
  if ended ~= '' then finish(jid, ended, at)
  elseif at >= tonumber(job[7]) then redis.call('SADD', p .. 'c:' .. wid, jid) end
end

local i = 3
while i <= #ARGV do
  local jid, epoch, after, ntok, n, ended = string.match(ARGV[i], '^(%x+) (%d+) (%d+) (%d+) (%d+) (%a*)$')
  after, n = tonumber(after), tonumber(n)
  local key = p .. 'j:' .. jid
  local job = redis.call('HMGET', key, 'state', 'epoch', 'worker', 'seq', 'fe', 'ntok', 'end_at', 'claimed',
    'cancel')
  local seq = tonumber(job[4])
  if not seq then gone[#gone + 1] = jid
  elseif job[2] ~= epoch or job[3] ~= wid then fenced[#fenced + 1] = jid
  elseif n > 0 and seq == after + n then -- said before: the reply was lost
  elseif job[1] ~= 'running' then fenced[#fenced + 1] = jid
  elseif seq ~= after then behind[#behind + 1] = jid; behind[#behind + 1] = tostring(seq)
  elseif n > 0 then store(jid, key, job, ended, ntok, i + 1, n) end
  i = i + 1 + n
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
