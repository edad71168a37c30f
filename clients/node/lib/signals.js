// What is to be called when a signal is aborted. One listener serves all calls that a signal
// may end: of more than ten Node.js warns as of a leak.
const bySignal = new WeakMap()

/** Calls back once, when the signal is aborted. Returns what withdraws it. */
export function onceAborted(signal, callback) {
  const followers = bySignal.get(signal) ?? follow(signal)
  followers.callbacks.add(callback)
  return () => {
    followers.callbacks.delete(callback)
    if (followers.callbacks.size > 0) return
    signal.removeEventListener('abort', followers.tell)
    bySignal.delete(signal)
  }
}

function follow(signal) {
  const callbacks = new Set()
  const tell = () => {
    for (const callback of callbacks) callback()
  }
  signal.addEventListener('abort', tell, {once: true})
  const followers = {callbacks, tell}
  bySignal.set(signal, followers)
  return followers
}
