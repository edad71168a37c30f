// Package client asks a Headgate server over gRPC. A [Client] has the methods of a
// gate.Gate, so that code can hold either.
package client
