// Package headgatev1 is the gRPC API of Headgate as Go code: messages and stubs
// that are generated from headgate.proto by make proto. Go programs that ask a
// server are better off with package client.
package headgatev1
