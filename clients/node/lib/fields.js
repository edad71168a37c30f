// The response fields that tell a client of its limits, as those of Headgate's other doors:
// RateLimit and RateLimit-Policy of draft-ietf-httpapi-ratelimit-headers-11 and the older
// conventions. Every time is rounded up to whole seconds, to at least 1.

const seconds = (ms) => Math.max(1, Math.ceil(ms / 1000))

/** The name as an sf-string (RFC 9651). */
const quote = (name) => `"${name.replace(/["\\]/g, '\\$&')}"`

/** A token bucket whose numbers the caller says, and what is told of it. */
export class Bucket {
  /**
   * @param {string} name
   * @param {number} count of tokens that come back in a period; 0: nothing passes
   * @param {number} burst
   * @param {number} period in seconds
   */
  constructor(name, count, burst, period) {
    this.count = count
    this.burst = burst
    this.period = period
    this.window = Math.ceil(count === 0 ? period : (burst * period) / count)
    this.quoted = quote(name)
    this.policy = `${this.quoted};q=${burst};w=${this.window}`
  }

  // How long nobody can use more than what remains, in milliseconds: the time in which the
  // bucket refills that; of one that is empty until the first token, and all others take
  // burst - 1.
  #wait(l) {
    if (!l.allowed && l.retryAfterMs !== null) return l.retryAfterMs
    if (this.count === 0) return l.resetMs
    const perToken = (this.period * 1000) / this.count
    return l.remaining > 0 ? l.remaining * perToken : l.resetMs - (this.burst - 1) * perToken
  }

  /** The value of RateLimit. */
  standing(l) {
    return `${this.quoted};r=${l.allowed || l.retryAfterMs === null ? l.remaining : 0};t=${seconds(this.#wait(l))}`
  }
}

/**
 * Sets RateLimit-Policy and RateLimit: of the caller's bucket, else those that the server
 * has said. They are added to those of other limiters.
 */
export function setFields(res, d, bucket) {
  if (bucket) {
    if (d.limits.length === 0) return
    res.appendHeader('RateLimit-Policy', bucket.policy)
    res.appendHeader('RateLimit', bucket.standing(d.limits[0]))
  } else if (d.details?.rateLimit) {
    res.appendHeader('RateLimit-Policy', d.details.rateLimitPolicy)
    res.appendHeader('RateLimit', d.details.rateLimit)
  }
}

/**
 * What older conventions say: that of the limit that binds most. null if there is none to
 * be told. Only of a bucket the window is known; else it is 0.
 */
export function tightest(d, bucket) {
  let best = null
  for (const l of d.limits) {
    if (l.owner !== 'subject' || l.mode !== 'enforce' || l.algorithm === 'ban' || (l.allowed && l.overage > 0)) continue
    const it = item(l, bucket ? bucket.window : 0)
    if (best === null || compare(it, best) < 0) best = it
  }
  return best
}

function item(l, window) {
  const {limit, remaining, allowed, retryAfterMs, resetMs} = l
  if (allowed || retryAfterMs === null) return {limit, remaining, window, refused: !allowed, never: !allowed, reset: resetMs}
  return {limit, remaining: 0, window, refused: true, never: false, reset: retryAfterMs}
}

function compare(a, b) {
  if (a.refused !== b.refused) return a.refused ? -1 : 1
  if (!a.refused) return a.remaining - b.remaining
  if (a.never !== b.never) return a.never ? -1 : 1
  return b.reset - a.reset
}

/** Sets the fields of 'draft-7' or 'draft-6'. */
export function setOlder(res, style, it) {
  res.setHeader('RateLimit-Policy', it.window > 0 ? `${it.limit};w=${it.window}` : `${it.limit}`)
  if (style === 'draft-7') {
    res.setHeader('RateLimit', `limit=${it.limit}, remaining=${it.remaining}, reset=${seconds(it.reset)}`)
    return
  }
  res.setHeader('RateLimit-Limit', it.limit)
  res.setHeader('RateLimit-Remaining', it.remaining)
  res.setHeader('RateLimit-Reset', seconds(it.reset))
}

/** Sets X-RateLimit-Limit, -Remaining and -Reset, which is in seconds since 1970. */
export function setLegacy(res, it, now) {
  res.setHeader('X-RateLimit-Limit', it.limit)
  res.setHeader('X-RateLimit-Remaining', it.remaining)
  res.setHeader('X-RateLimit-Reset', Math.ceil((now + Math.max(it.reset, 1000)) / 1000))
}

/** Sets Retry-After, in seconds. */
export function setRetryAfter(res, ms) {
  res.setHeader('Retry-After', seconds(ms))
}
