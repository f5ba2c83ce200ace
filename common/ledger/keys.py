"""The map of Redis: every key begins with its partition's tag, ``{q00}`` for the first.

No key holds client text: owners and shares are 128-bit hashes. ``p`` stands for the tag and a colon. The scripts build
their keys themselves; functions stand here for those that Python names.

p j:<jid>                hash   a job: body, owner, share, model, cls, state, epoch, worker, …
p t:<jid>                list   its log; the last item is Done or Failed
p b:<jid>:<n>            string large bodies
                         (these three expire together, ``keep_s`` after the job's end)
p u:<model>:<cls>        zset   owner -> score, of those with waiting jobs
p u:<model>:<cls>:<owner> zset  share -> score, of his that have waiting jobs
p w:<model>:<cls>        hash   owner -> how many
p l:<model>:<cls>:<share> list  waiting job ids; resumed and priority ones at the head
p sc:<model>             zset   owner -> score, of all lately served; vt: the virtual time
p sc:<model>:<owner>     zset   the same of his shares
p st:<model>             hash   ready:<cls> waiting jobs, jobs done, tokens, spent and allowed lately
p ct:<model>             hash   the workers' counters
p workers                zset   wid -> last beat (Redis TIME)
p wi:<wid>               hash   what the worker says of itself, the name of its last beat
p h:<wid>                hash   its jobs -> what EMIT must know of them: HELD in end_job.lua
p c:<wid>                set    those of them that are to end
p cr:<wid>               hash   its last CLAIM: the request's name, job, epoch; claims made with a free slot
p fes                    zset   front end -> last beat
p fw:<fid>               set    the jobs it watches
p un                     zset   'cancel' jobs without a watcher -> since when
p o:<owner>              zset   its newest jobs -> when they came; more than are still kept
p idem:<name>            hash   the job, batch, file or endpoint of an idempotency key, the digest of its request
p orphan:<name>          string the job of a request whose client went and may ask again
p dl                     zset   open jobs -> when to look at their deadline
p ended:<parent>         list   jobs of a parent that have ended; whoever keeps the parent takes them
p m:<model>              hash   card, tokenizer files (first partition only)
p bat:<bid>              hash   a batch: state, owner, rows fed and taken, counts, times
p bats                   set    those that are open
p bo:<owner>             zset   an owner's batches -> when they came; boo:<owner>: those that are open
p bs:<bid>:<kind>        list   places of its lines that are written, for output and error
p wo:<owner>             hash   its webhook endpoints: id -> JSON, secrets among it; whoever has none has no key
p wq:<owner>:<id>        zset   what an endpoint is still to be told: 'event id at' -> when it is tried next
p wt:<owner>:<id>        hash   of these, what was tried: how often
p wn                     zset   '<owner>:<id>' of endpoints with such -> when it is their turn
p wc                     hash   what became of deliveries: how often
p f:<file>               hash   a file: owner, name, purpose, size, created, expires (first partition only)
p fd:<file>              string whose it was; it was deleted, and comes not back
p fo:<owner>             zset   its files -> when they came
p fx                     zset   files that expire -> when
p lease:<name>           string who does the periodic work (first partition only)

Channels: ``fe:<fid>``, one per front end; ``wk:<model>``, jobs above the lowest class that begin to wait.
"""

_PAD = "." * 2048


def tag(partition: int) -> str:
    """The hash tag that keeps a partition's keys together."""
    return f"{{q{partition:02x}}}"


def job(p: str, job_id: str) -> str:
    """A job."""
    return f"{p}:j:{job_id}"


def log(p: str, job_id: str) -> str:
    """Its items."""
    return f"{p}:t:{job_id}"


def owned(p: str, owner: str) -> str:
    """An owner's newest jobs."""
    return f"{p}:o:{owner}"


def orphan(p: str, name: str) -> str:
    """A job that a repeated request may take over."""
    return f"{p}:orphan:{name}"


def room(p: str) -> str:
    """No key, but one that is written to with nothing; so long that a beat has room wherever this has."""
    return f"{p}:room:{_PAD}"


def workers(p: str) -> str:
    """Who beats."""
    return f"{p}:workers"


def held(p: str, worker: str) -> str:
    """A worker's jobs, and what EMIT must know of them."""
    return f"{p}:h:{worker}"


def front_ends(p: str) -> str:
    """Which front ends beat."""
    return f"{p}:fes"


def stats(p: str, model: str) -> str:
    """Waiting counts and what was measured."""
    return f"{p}:st:{model}"


def counters(p: str, model: str) -> str:
    """What the workers counted."""
    return f"{p}:ct:{model}"


def card(p: str, model: str) -> str:
    """The model card and its tokenizer files."""
    return f"{p}:m:{model}"


def ended(p: str, parent: str) -> str:
    """Jobs of a parent that have ended."""
    return f"{p}:ended:{parent}"


def batch(p: str, batch_id: str) -> str:
    """A batch."""
    return f"{p}:bat:{batch_id}"


def open_batches(p: str) -> str:
    """Those that have not ended."""
    return f"{p}:bats"


def batches_of(p: str, owner: str) -> str:
    """An owner's."""
    return f"{p}:bo:{owner}"


def segments(p: str, batch_id: str, kind: str) -> str:
    """Where its written lines lie."""
    return f"{p}:bs:{batch_id}:{kind}"


def webhooks(p: str, owner: str) -> str:
    """An owner's endpoints."""
    return f"{p}:wo:{owner}"


def deliveries(p: str) -> str:
    """What became of them, counted."""
    return f"{p}:wc"


def file(p: str, file_id: str) -> str:
    """What is known of a file."""
    return f"{p}:f:{file_id}"


def files_of(p: str, owner: str) -> str:
    """An owner's files."""
    return f"{p}:fo:{owner}"


def files_expiring(p: str) -> str:
    """Those that will not stay for ever."""
    return f"{p}:fx"


def arrivals(model: str) -> str:
    """Where its workers hear of jobs above the lowest class."""
    return f"wk:{model}"


def channel(front_end: str) -> str:
    """Where a front end hears of new items."""
    return f"fe:{front_end}"
