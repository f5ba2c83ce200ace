-- SUBMIT: keep the job, queue it, watch it; once or not at all.
-- ARGV: jid, front end or '', limit of the class, limit of the share, end_s, max_wait_s or '', then the job's fields
local jid, fid = ARGV[1], ARGV[2]
local job = {}
for i = 7, #ARGV, 2 do job[ARGV[i]] = ARGV[i + 1] end
local key, model, cls, share = p .. 'j:' .. jid, job.model, job.cls, job.share
if redis.call('EXISTS', key) == 1 then
  if redis.call('HGET', key, 'owner') ~= job.owner then return {'taken'} end
  return {'ok', '0', ''}
end
local at = clock()
local counts = ready(model)
local ahead = 0
for i, name in ipairs(CLASSES) do
  ahead = ahead + tonumber(counts[i] or '0')
  if name == cls then
    if cls ~= 'batch' and tonumber(counts[i] or '0') >= tonumber(ARGV[3]) then return {'full', eta(model, ahead)} end
    break
  end
end
if cls ~= 'batch' and redis.call('LLEN', p .. 'l:' .. model .. ':' .. cls .. ':' .. share) >= tonumber(ARGV[4]) then
  return {'full', eta(model, ahead)}
end
local wait = eta(model, ahead + 1)
if ARGV[6] ~= '' and wait ~= '' and tonumber(wait) > tonumber(ARGV[6]) then return {'late', wait} end
local end_at = at + tonumber(ARGV[5])
local wait_at = end_at
if ARGV[6] ~= '' then wait_at = math.min(end_at, at + tonumber(ARGV[6])) end
redis.call('HSET', key, 'state', 'queued', 'epoch', 0, 'seq', 0, 'ntok', 0, 'attempts', 0, 'fe', fid,
  'submitted', stamp(at), 'end_at', stamp(end_at), 'wait_at', stamp(wait_at), unpack(ARGV, 7))
if fid ~= '' then redis.call('SADD', p .. 'fw:' .. fid, jid) end
redis.call('ZADD', p .. 'dl', stamp(wait_at), jid)
redis.call('SADD', p .. 'models', model)
enqueue(jid, model, cls, share, job.priority == '1')
return {'ok', tostring(ahead + 1), wait}
