package envoyrls

import (
	pb "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/runtime/protoiface"
)

// message is a message of the protocol that is read or written by hand, so that a call
// costs one or two allocations instead of a dozen: to the codec it is one of the generated
// type whose methods are ours.
type message struct {
	protoreflect.Message // of the generated type, without a value
	methods              *protoiface.Methods
	self                 proto.Message
}

func (m *message) ProtoMethods() *protoiface.Methods { return m.methods }

func (m *message) Interface() protoreflect.ProtoMessage { return m.self }

var (
	requestType  = (*pb.RateLimitRequest)(nil).ProtoReflect()
	responseType = (*pb.RateLimitResponse)(nil).ProtoReflect()
)

// ProtoReflect makes a call what the codec reads a request into.
func (c *call) ProtoReflect() protoreflect.Message { return &c.message }

// Reset empties the call, as the codec does before it reads.
func (c *call) Reset() {
	c.ask.reset()
	c.malformed = nil
}

var requestMethods = &protoiface.Methods{
	Unmarshal: func(in protoiface.UnmarshalInput) (protoiface.UnmarshalOutput, error) {
		c := in.Message.Interface().(*call)
		c.malformed = c.ask.decode(in.Buf) // gRPC would take it for a failure of the server
		return protoiface.UnmarshalOutput{Flags: protoiface.UnmarshalInitialized}, nil
	},
}

// reply is a response in the form in which it is sent.
type reply struct {
	message
	wire  []byte
	bytes [replyBytes]byte // of most
}

// replyBytes holds the statuses of three descriptors.
const replyBytes = 160

func newReply(wire []byte) *reply {
	r := &reply{message: message{Message: responseType, methods: responseMethods}}
	r.self = r
	r.wire = append(r.bytes[:0], wire...)
	return r
}

// ProtoReflect makes a reply what the codec writes.
func (r *reply) ProtoReflect() protoreflect.Message { return &r.message }

var responseMethods = &protoiface.Methods{
	Flags: protoiface.SupportMarshalDeterministic,
	Size: func(in protoiface.SizeInput) protoiface.SizeOutput {
		return protoiface.SizeOutput{Size: len(in.Message.Interface().(*reply).wire)}
	},
	Marshal: func(in protoiface.MarshalInput) (protoiface.MarshalOutput, error) {
		return protoiface.MarshalOutput{Buf: append(in.Buf, in.Message.Interface().(*reply).wire...)}, nil
	},
	CheckInitialized: func(protoiface.CheckInitializedInput) (protoiface.CheckInitializedOutput, error) {
		return protoiface.CheckInitializedOutput{}, nil
	},
}
