package main

import (
	"fmt"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// siteError is an answer of a site, told in one sentence that says what to do.
// It unwraps to the gRPC status, so that status.Code still works.
type siteError struct {
	message string
	cause   error
}

func (e *siteError) Error() string { return e.message }
func (e *siteError) Unwrap() error { return e.cause }

// explain maps a failed call to what a person needs to read. s.mu is held.
// The table is the only place where gRPC codes are read for their meaning.
func (s *site) explain(err error, method string) error {
	answer := status.Convert(err)
	said := oneSentence(answer.Message())
	switch answer.Code() {
	case codes.InvalidArgument:
		return misuse("%s", said)
	case codes.NotFound, codes.FailedPrecondition, codes.AlreadyExists, codes.OutOfRange:
		// The admin API promises that these messages say what to do.
		return &siteError{said, err}
	case codes.Aborted:
		return &siteError{said + "; run the command again", err}
	case codes.Unavailable:
		return &siteError{s.explainUnavailable(said), err}
	case codes.DeadlineExceeded:
		if s.dialErr != nil {
			return &siteError{s.explainUnavailable(said), err}
		}
		return &siteError{fmt.Sprintf("the site %s did not answer within %v: it may still be at work, see `%s status`, or raise --timeout", s.route.where(), s.timeout, s.command), err}
	case codes.Canceled:
		return &siteError{fmt.Sprintf("interrupted: the site may still be at work, see `%s status`", s.command), err}
	case codes.Unimplemented:
		return &siteError{fmt.Sprintf("the site %s does not know %s: it runs another version than this command, compare `%s version` with `%s status`", s.route.where(), method, s.command, s.command), err}
	case codes.PermissionDenied, codes.Unauthenticated:
		return &siteError{said + ": run this as the user that runs the site", err}
	default:
		return &siteError{fmt.Sprintf("%s (%s): the site's log says more", said, answer.Code()), err}
	}
}

func (s *site) explainUnavailable(said string) string {
	if s.dialErr != nil {
		return s.route.unreachable(s.dialErr)
	}
	return fmt.Sprintf("the site %s went away before it answered (%s): what was asked may have been done, see `%s status`", s.route.where(), said, s.command)
}

// oneSentence makes a server's message fit into a line.
func oneSentence(message string) string {
	message = strings.TrimRight(strings.Join(strings.Fields(message), " "), ". ")
	if message == "" {
		return "the site gave no reason"
	}
	return message
}
