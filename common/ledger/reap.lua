-- REAP: a dead worker's jobs go back to the head of their queues; hot ones are charged an attempt.
-- ARGV: wid, beat or '' (unconditional), hot jids...
local wid = ARGV[1]
local beat = redis.call('ZSCORE', p .. 'workers', wid)
if ARGV[2] ~= '' and beat ~= ARGV[2] then return {} end
local at = clock()
local hot = {}
for i = 3, #ARGV do hot[ARGV[i]] = true end
local out = {}
for _, jid in ipairs(redis.call('HKEYS', held_key(wid))) do
  local job = held_by(wid, jid)
  if job then
    local attempts, has_spoken = tonumber(job.attempts), log_length(jid) > tonumber(job.claim_seq)
    if hot[jid] then
      attempts = has_spoken and 1 or attempts + 1
      redis.call('HSET', p .. 'j:' .. jid, 'attempts', attempts)
    end
    if attempts >= 3 then
      redis.call('HINCRBY', p .. 'j:' .. jid, 'epoch', 1)
      end_job(jid, 'failed', POISON, at)
    else
      if has_spoken then -- at least until its worker's last beat; nobody generates in an outage
        redis.call('HINCRBYFLOAT', p .. 'j:' .. jid, 'spent', math.max(0, tonumber(beat or at) - tonumber(job.claimed)))
      end
      hand_back(jid, job, at)
    end
    out[#out + 1] = jid
  end
end
redis.call('DEL', held_key(wid), p .. 'c:' .. wid, p .. 'wi:' .. wid, p .. 'cr:' .. wid)
redis.call('ZREM', p .. 'workers', wid)
return out
