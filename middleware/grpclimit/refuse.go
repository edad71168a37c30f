package grpclimit

import (
	"google.golang.org/grpc/codes"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/middleware/grpclimit/answer"
)

// Code returns the code of a refusal: RESOURCE_EXHAUSTED if a limit of the
// client's refuses, INVALID_ARGUMENT for a cost that can never pass,
// PERMISSION_DENIED if a policy never lets the client pass, UNAVAILABLE if nobody
// would pass.
func Code(r headgate.Reason) codes.Code { return answer.Code(r) }

// verdict is what is told of a refusal.
func (s *state) verdict(d headgate.Decision) answer.Verdict {
	v := answer.Verdict{Decision: d}
	charges, outcomes := s.batch.Charges(), s.batch.Outcomes()
	if d.BoundBy >= 0 {
		v.Limit = charges[d.BoundBy].Limit.Label
	}
	for i, c := range charges {
		if o := &outcomes[i]; !o.Allowed {
			v.Violations = append(v.Violations, answer.Violation(c.Limit.Label, "requests", c.Cost, c.Limit.Algorithm, o))
		}
	}
	return v
}
