-- REAP: a dead worker's jobs go back to the head of their queues; hot ones are charged an attempt.
-- ARGV: wid, beat or '' (unconditional), cancelled item, expired item, poison item, hot jids...
local wid = ARGV[1]
if ARGV[2] ~= '' and redis.call('ZSCORE', p .. 'workers', wid) ~= ARGV[2] then return {} end
local at = clock()
local hot = {}
for i = 6, #ARGV do hot[ARGV[i]] = true end
local out = {}
for _, jid in ipairs(redis.call('SMEMBERS', p .. 'w:' .. wid)) do
  local job = fields(jid, 'state', 'worker', 'model', 'cls', 'share', 'cancel', 'end_at', 'seq', 'claim_seq', 'attempts')
  if job.state == 'running' and job.worker == wid then
    out[#out + 1] = jid
    local attempts = tonumber(job.attempts)
    if hot[jid] then
      attempts = tonumber(job.seq) > tonumber(job.claim_seq) and 1 or attempts + 1
      redis.call('HSET', p .. 'j:' .. jid, 'attempts', attempts)
    end
    if attempts >= 3 then
      redis.call('HINCRBY', p .. 'j:' .. jid, 'epoch', 1)
      end_job(jid, 'failed', ARGV[5], at)
    else
      hand_back(jid, job, ARGV[3], ARGV[4], at)
    end
  end
end
redis.call('DEL', p .. 'w:' .. wid, p .. 'c:' .. wid, p .. 'wi:' .. wid, p .. 'cr:' .. wid)
redis.call('ZREM', p .. 'workers', wid)
return out
