import {createHash} from 'node:crypto'
import {isIPv4, isIPv6} from 'node:net'

/** The longest subject or key of the server, in bytes. */
export const maxKey = 512

const forbidden = /[\r\n\0]/
const escaped = /[\r\n\0%]/g

// In UTF-8 all halves of characters are one.
const hash = (text) => createHash('sha256').update(text, text.isWellFormed() ? 'utf8' : 'utf16le').digest('base64url')

/** A subject of the policy: as it is, or its hash if the server would not take it. */
export function subject(value) {
  return fits(value, maxKey) && !forbidden.test(value) && value.isWellFormed() ? value : `sha256:${hash(value)}`
}

// A UTF-16 unit is at most three bytes of UTF-8.
const fits = (text, bytes) => text.length * 3 <= bytes || Buffer.byteLength(text) <= bytes

/**
 * The key of a bucket: application, name and kind without a colon in them, and the value to
 * the end. So no two of them meet, whatever a client sends as value.
 */
export class Keys {
  #prefix

  /** Throws a TypeError if application and name are too long. */
  constructor(application, name) {
    this.#prefix = `${encodeURIComponent(application)}:${encodeURIComponent(name)}:`
    if (this.#prefix.length > maxKey / 2) throw new TypeError(`name: application and name must be at most ${maxKey / 2} bytes together, with escapes`)
  }

  /** @param {string} kind of value, without a colon: 'ip' or 'id' */
  of(kind, value) {
    const key = `${this.#prefix}${kind}:${value.replace(escaped, encodeURIComponent)}`
    return fits(key, maxKey) && value.isWellFormed() ? key : `${this.#prefix}${kind}-sha256:${hash(value)}`
  }
}

/**
 * What an address is counted by: an IPv4 address alone, an IPv6 address with its network, as
 * one customer has many. A port behind it, as some proxies send, is dropped.
 *
 * @param {string} address
 * @param {number | false} subnet  the bits of an IPv6 network, 32 to 64, or false for single addresses
 * @returns {string | undefined} undefined if it is no address
 */
export function ipKeyGenerator(address, subnet = 64) {
  if (isIPv4(address)) return address
  const bare = /^\[(.*)\](?::\d+)?$/.exec(address)?.[1] ?? /^([^:]+):\d+$/.exec(address)?.[1] ?? address
  if (isIPv4(bare)) return bare
  if (!isIPv6(bare)) return undefined
  const groups = parse6(bare)
  if (groups.slice(0, 5).every((g) => g === 0) && groups[5] === 0xffff) {
    return `${groups[6] >> 8}.${groups[6] & 255}.${groups[7] >> 8}.${groups[7] & 255}`
  }
  if (subnet === false) return groups.map((g) => g.toString(16)).join(':')
  const network = groups.slice(0, 4).map((g, i) => g & (0xffff0000 >> Math.min(16, Math.max(0, subnet - 16 * i))))
  while (network.at(-1) === 0) network.pop()
  return `${network.map((g) => g.toString(16)).join(':')}::/${subnet}`
}

// The eight groups of an IPv6 address that is one.
function parse6(text) {
  const groupsOf = (part) => (part === '' ? [] : part.split(':').flatMap(group))
  const [head, tail] = text.replace(/%.*$/, '').split('::')
  const before = groupsOf(head)
  if (tail === undefined) return before
  const after = groupsOf(tail)
  return [...before, ...Array(8 - before.length - after.length).fill(0), ...after]
}

function group(part) {
  if (!part.includes('.')) return [Number.parseInt(part, 16)]
  const [a, b, c, d] = part.split('.').map(Number)
  return [a * 256 + b, c * 256 + d]
}
