/** The answer to one request. Its fields are described in index.d.ts. */
export class Decision {
  constructor(allowed, reason, limit, remaining, resetMs, retryAfterMs, limits) {
    this.allowed = allowed
    this.reason = reason
    this.limit = limit
    this.remaining = remaining
    this.resetMs = resetMs
    this.retryAfterMs = retryAfterMs
    this.limits = limits
    this.retryable = true
    this.degraded = null
    this.error = null
    this.ticket = null
    this.message = null
    this.details = null
  }
}

const isTrue = (v) => v === true || v === 1
const absent = (v) => (v === undefined ? null : v)

function limitState(o) {
  return {
    id: o.id,
    algorithm: o.algorithm,
    owner: o.owner,
    unit: o.unit,
    allowed: isTrue(o.allowed),
    limit: o.limit,
    used: o.used,
    remaining: o.remaining,
    overage: o.overage,
    retryAfterMs: absent(o.retry_after_ms),
    resetMs: o.reset_after_ms,
    resetsAt: absent(o.resets_at),
    mode: o.mode,
    exact: isTrue(o.exact)
  }
}

/** Makes a decision of what the server sent, as JSON or as {@link fromPairs} gives it. */
export function fromServer(o) {
  const d = new Decision(isTrue(o.allowed), o.reason, absent(o.limit), absent(o.remaining), absent(o.reset_after_ms), absent(o.retry_after_ms), o.limits.map(limitState))
  d.retryable = isTrue(o.retryable)
  d.degraded = absent(o.degraded)
  d.ticket = absent(o.ticket)
  d.message = absent(o.message)
  d.details = {
    id: o.decision_id,
    boundBy: absent(o.bound_by),
    application: o.application,
    rule: o.rule,
    operation: o.operation,
    subject: o.subject,
    plan: o.plan,
    cost: o.cost,
    units: o.costs,
    mode: o.mode,
    wouldDeny: absent(o.would_deny),
    candidate: absent(o.candidate),
    replayed: isTrue(o.replayed),
    waitedMs: o.waited_ms,
    delayMs: o.delay_ms ?? 0,
    policyRevision: o.policy_revision,
    rateLimitPolicy: absent(o.ratelimit_policy),
    rateLimit: absent(o.ratelimit)
  }
  if (o.held !== undefined) d.details.held = isTrue(o.held)
  return d
}

/** Makes an object of names and values by turns, or of a Map. */
export function fromPairs(reply) {
  const o = {}
  if (Array.isArray(reply)) {
    for (let i = 0; i < reply.length; i += 2) o[reply[i]] = reply[i + 1]
  } else if (reply instanceof Map) {
    for (const [name, value] of reply) o[name] = value
  } else {
    Object.assign(o, reply)
  }
  return o
}

/**
 * Makes a decision of the reply to CL.THROTTLE: limited, limit, remaining, seconds to a
 * retry (-1: allowed or never), seconds until the bucket is full.
 */
export function fromCell(reply) {
  if (!Array.isArray(reply) || reply.length !== 5) throw new TypeError('not a reply to CL.THROTTLE')
  const [limited, limit, remaining, retry, reset] = reply
  const allowed = limited === 0
  const never = !allowed && retry < 0
  const retryAfterMs = allowed ? 0 : never ? null : retry * 1000
  return ofBucket(allowed, allowed ? 'ok' : never ? 'cost_exceeds_limit' : 'rate_limited', limit, remaining, reset * 1000, retryAfterMs)
}

/** The decision where the limit is 0: nothing passes, and nobody has to be asked. */
export const nothing = (resetMs) => ofBucket(false, 'rate_limited', 0, 0, resetMs, null)

function ofBucket(allowed, reason, limit, remaining, resetMs, retryAfterMs) {
  const d = new Decision(allowed, reason, limit, remaining, resetMs, retryAfterMs, [
    {
      id: 'throttle',
      algorithm: 'token_bucket',
      owner: 'subject',
      unit: 'requests',
      allowed,
      limit,
      used: limit - remaining,
      remaining,
      overage: 0,
      retryAfterMs,
      resetMs,
      resetsAt: null,
      mode: 'enforce',
      exact: true
    }
  ])
  d.retryable = retryAfterMs !== null
  return d
}

/**
 * The decision that nobody made: the server did not, and the failure policy rules.
 *
 * @param {Error} error
 * @param {boolean} allowed
 * @param {number} retryAfterMs  when asking again may help
 */
export function withoutServer(error, allowed, retryAfterMs) {
  const reason = error.code === 'overloaded' ? 'overloaded' : 'store_unavailable'
  const d = new Decision(allowed, reason, null, null, null, allowed ? 0 : retryAfterMs, [])
  d.degraded = allowed ? 'open' : 'closed'
  d.error = error
  return d
}
