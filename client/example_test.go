package client

import (
	"context"
	"fmt"
	"log"
	"net"
	"time"

	"github.com/headgate/headgate"
	headgatev1 "github.com/headgate/headgate/api/headgate/v1"
	"github.com/headgate/headgate/gate"
	"google.golang.org/grpc"
)

// startExample starts a server that allows everything.
func startExample() (target string, stop func()) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	s := grpc.NewServer()
	headgatev1.RegisterHeadgateServiceServer(s, &fake{peers: make(map[string]bool)})
	go s.Serve(l)
	return l.Addr().String(), s.Stop
}

// What happens when the server cannot be asked is for the caller to say.
func Example() {
	target, stop := startExample() // such as "127.0.0.1:8081"
	c, err := New(target, Options{Timeout: 5 * time.Second})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()

	ask := func() {
		r := gate.Request{Application: "email", Operation: "sendEmail", Subject: "alice"}
		var d gate.Decision
		switch err := c.Take(context.Background(), &r, &d); {
		case headgate.CodeOf(err) == headgate.Unavailable:
			fmt.Println("nobody knows: sent all the same, it is only mail")
		case err != nil:
			fmt.Println("wrong request:", err)
		case !d.Allowed:
			fmt.Println("refused:", d.Reason, "for", d.RetryAfter)
		default:
			fmt.Println("sent for", d.Subject)
		}
	}
	ask()
	stop()
	ask()
	// Output:
	// sent for alice
	// nobody knows: sent all the same, it is only mail
}
