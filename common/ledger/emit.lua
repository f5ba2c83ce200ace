-- EMIT: fence, log, state and one publish per watching front end, for all jobs of a step.
-- ARGV: wid, model, number of jobs, then per job: jid, epoch, items it believes are stored, end state or '', new tokens, n, items...
local wid, model = ARGV[1], ARGV[2]
local at = clock()
local fenced, gone, behind, messages, order = {}, {}, {}, {}, {}
local i = 4
for _ = 1, tonumber(ARGV[3]) do
  local jid, epoch, after, ended, ntok, n =
    ARGV[i], ARGV[i + 1], tonumber(ARGV[i + 2]), ARGV[i + 3], ARGV[i + 4], tonumber(ARGV[i + 5])
  i = i + 6
  local key = p .. 'j:' .. jid
  local h = redis.call('HMGET', key, 'state', 'epoch', 'worker', 'seq', 'fe')
  local seq = tonumber(h[4] or '0')
  if not h[1] then gone[#gone + 1] = jid
  elseif h[2] ~= epoch or h[3] ~= wid then fenced[#fenced + 1] = jid
  elseif seq == after + n and (n > 0 or h[1] == 'running') and (seq > after) then
    -- said before: the reply was lost
  elseif h[1] ~= 'running' then fenced[#fenced + 1] = jid
  elseif seq ~= after then behind[#behind + 1] = jid; behind[#behind + 1] = tostring(seq)
  elseif n > 0 then
    local from = i
    while from < i + n do -- unpack holds a few thousand values
      local to = math.min(from + 999, i + n - 1)
      redis.call('RPUSH', p .. 't:' .. jid, unpack(ARGV, from, to))
      from = to + 1
    end
    redis.call('HSET', key, 'seq', seq + n)
    redis.call('HINCRBY', key, 'ntok', ntok)
    if h[5] and h[5] ~= '' then
      local list = messages[h[5]]
      if not list then list = {}; messages[h[5]] = list; order[#order + 1] = h[5] end
      list[#list + 1] = record(jid, seq + 1, ended == '' and 0 or 1, ARGV, i, i + n - 1)
    end
    if ended ~= '' then finish(jid, ended, at) end
  end
  i = i + n
end
for _, fes in ipairs(order) do tell(fes, table.concat(messages[fes], '\30')) end
local cancelled, expired = ending(wid)
return {fenced, gone, behind, cancelled, expired, ready(model)}
