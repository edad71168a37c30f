// The response fields that tell a client of its limits, as those of Headgate's other doors:
// RateLimit and RateLimit-Policy of draft-ietf-httpapi-ratelimit-headers-11 and the older
// conventions. Every time is rounded up to whole seconds, to at least 1.

/** How many limits one response names. */
const maxItems = 4

const seconds = (ms) => Math.max(1, Math.ceil(ms / 1000))

/**
 * Describes the limits of a decision, the tightest first.
 *
 * @param {import('./decision.js').Decision} d
 * @param {{quoted: string, burst: number, count: number, period: number, window: number} | null} bucket
 *   where the caller said the limit. Else windows are not known, and the waits are the safe
 *   ones: until the limit is full again.
 */
export function items(d, bucket) {
  if (bucket) return d.limits.length === 0 ? [] : [item(d.limits[0], bucket)]
  return d.limits
    .filter((l) => l.owner === 'subject' && l.mode === 'enforce' && l.algorithm !== 'ban' && !(l.allowed && l.overage > 0) && /^[ -~]+$/.test(l.id))
    .map((l) => item(l, null))
    .sort(compare)
    .slice(0, maxItems)
}

function item(l, bucket) {
  const refused = !l.allowed
  const it = {
    name: bucket ? bucket.quoted : quote(l.id),
    limit: l.limit,
    remaining: l.remaining,
    window: bucket ? bucket.window : 0,
    concurrent: l.algorithm === 'concurrency',
    refused,
    never: refused && l.retryAfterMs === null,
    wait: l.resetMs,
    reset: l.resetMs
  }
  if (refused && !it.never) {
    it.remaining = 0
    it.wait = it.reset = l.retryAfterMs
  } else if (bucket) {
    // The time in which the bucket refills what remains; of one that is empty until the
    // first token, and all others take burst - 1.
    const perToken = (bucket.period * 1000) / bucket.count
    it.wait = l.remaining > 0 ? l.remaining * perToken : l.resetMs - (bucket.burst - 1) * perToken
  }
  return it
}

function compare(a, b) {
  if (a.refused !== b.refused) return a.refused ? -1 : 1
  if (!a.refused) return a.remaining - b.remaining
  if (a.never !== b.never) return a.never ? -1 : 1
  return b.wait - a.wait
}

/** The name as an sf-string (RFC 9651). */
export const quote = (name) => `"${name.replace(/["\\]/g, '\\$&')}"`

const policy = (it) => `${it.name};q=${it.limit}${it.concurrent ? ';qu="concurrent-requests"' : ''}${it.window > 0 ? `;w=${it.window}` : ''}`
const standing = (it) => `${it.name};r=${it.remaining};t=${seconds(it.wait)}`
const join = (list, text) => (list.length === 1 ? text(list[0]) : list.map(text).join(', '))

/** Sets the fields of one convention: 'draft-8', 'draft-7', 'draft-6'. */
export function setStandard(res, style, list) {
  if (list.length === 0) return
  if (style === 'draft-8') {
    append(res, 'RateLimit-Policy', join(list, policy))
    append(res, 'RateLimit', join(list, standing))
    return
  }
  const [it] = list
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
export function setLegacy(res, list, now) {
  if (list.length === 0) return
  const [it] = list
  res.setHeader('X-RateLimit-Limit', it.limit)
  res.setHeader('X-RateLimit-Remaining', it.remaining)
  res.setHeader('X-RateLimit-Reset', Math.ceil((now + Math.max(it.reset, 1000)) / 1000))
}

/** Sets Retry-After, in seconds. */
export function setRetryAfter(res, ms) {
  res.setHeader('Retry-After', seconds(ms))
}

// Limiters behind each other all speak.
function append(res, name, value) {
  const before = res.getHeader(name)
  res.setHeader(name, before === undefined ? value : `${before}, ${value}`)
}
