// What is to be called when a connection ends. One listener serves all requests that a
// connection brings.
const bySocket = new WeakMap()

/** Whether the response has ended, or nobody is there any more who waits for it. */
export const isClosed = (req, res) => res.closed || req.socket?.destroyed === true

/**
 * Calls back once, when the response has ended or its connection has. Of responses that wait
 * behind another one of their connection, node:http tells only the latter. Returns what
 * withdraws it.
 */
export function onceClosed(req, res, callback) {
  if (isClosed(req, res)) {
    callback()
    return () => {}
  }
  const open = req.socket ? openOf(req.socket) : new Set()
  const withdraw = () => {
    res.off('close', closed)
    open.delete(closed)
  }
  const closed = () => {
    withdraw()
    callback()
  }
  res.on('close', closed)
  open.add(closed)
  return withdraw
}

function openOf(socket) {
  let open = bySocket.get(socket)
  if (open === undefined) {
    bySocket.set(socket, (open = new Set()))
    socket.once('close', () => {
      for (const closed of open) closed()
    })
  }
  return open
}
