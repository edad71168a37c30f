import {parse} from 'node:url'

/** A request whose path rules cannot be found by, or by another one than routers find. */
export class BadTarget extends Error {
  /**
   * @param {number} status
   * @param {string} what is wrong
   */
  constructor(status, what) {
    super(`the path ${what}`)
    this.status = status
  }
}

// The longest path that the server takes, in bytes.
const longest = 8192

const badEscape = /%(?![0-9a-f]{2})/i
const control = /[\0-\x1f\x7f]|%[01][0-9a-f]|%7f/i
const slash = /\/|%2f/i
const dots = /^(?:\.|%2e){1,2}$/i

/**
 * The path of a request as Express' router reads it, and its query where there is room.
 * Throws a BadTarget for a path that the server does not take, or resolves while routers do
 * not: the client could choose between two rules.
 */
export function targetOf(req) {
  const [path, query] = split(req.originalUrl ?? req.url)
  if (Buffer.byteLength(path) > longest) throw new BadTarget(414, `is longer than ${longest} bytes`)
  if (badEscape.test(path)) throw new BadTarget(400, "has a '%' that two hexadecimal digits do not follow")
  if (control.test(path)) throw new BadTarget(400, 'has a control character')
  if (path.split(slash).some((segment) => dots.test(segment))) throw new BadTarget(400, "has a segment '.' or '..', which routers and rules may read as different paths")
  return Buffer.byteLength(path) + Buffer.byteLength(query) > longest ? path : path + query
}

// Express takes what is no plain path, as a proxy's form, apart by url.parse.
function split(target) {
  if (target === '*') return ['/*', '']
  if (target.startsWith('/') && !/[\s#]/.test(target)) {
    const end = target.indexOf('?')
    return end < 0 ? [target, ''] : [target.slice(0, end), target.slice(end)]
  }
  let url
  try {
    url = parse(target)
  } catch {
    throw new BadTarget(400, 'cannot be read')
  }
  if (!url.pathname?.startsWith('/')) throw new BadTarget(400, 'cannot be read')
  return [url.pathname, url.search ?? '']
}
