package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/code"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	sumv1 "sumd/gen/sum/v1"
)

const (
	incrementsPerMessage = 100
	// The longest time to retry without progress.
	recordPatience = 30 * time.Second
)

var errEndedEarly = status.Error(codes.Unavailable, "the server ended the stream early")

// session is a bulk session, which outlives its streams: unacknowledged messages are kept, and sent again,
// unchanged, on the next stream.
type session struct {
	id   string
	time *timestamppb.Timestamp // nil if the id carries it

	input          <-chan []*sumv1.Increment // one message each; nil after the last
	read           uint64                    // the number of messages that were read from the input
	acknowledged   uint64
	unacknowledged [][]*sumv1.Increment // of the messages acknowledged+1, acknowledged+2, …
	failed         int
	progress       bool // whether there was progress since this was false
}

// record adds each line of standard input exactly once. After a crash of the client, the same command with the
// same input finishes the work: acknowledged messages are not sent again.
func record(ctx context.Context, client sumv1.CounterServiceClient, id string, beginMillis int64) error {
	input := make(chan []*sumv1.Increment)
	s := &session{id: id, input: input, progress: true}
	if beginMillis != 0 {
		s.time = timestamppb.New(time.UnixMilli(beginMillis))
	}
	var inputErr error // read only after the input is closed
	go func() {
		inputErr = readIncrements(os.Stdin, input)
		close(input)
	}()
	err := s.run(ctx, client)
	fmt.Printf("acknowledged=%d failed=%d\n", s.acknowledged, s.failed)
	if err != nil {
		return err
	}
	return inputErr
}

// readIncrements stops at an invalid line, and leaves out its message. So messages have the same numbers and
// contents when the command runs again with the line fixed.
func readIncrements(input io.Reader, messages chan<- []*sumv1.Increment) error {
	var message []*sumv1.Increment
	lines := bufio.NewScanner(input)
	for number := 1; lines.Scan(); number++ {
		increment, err := parseIncrement(lines.Text())
		if err != nil {
			return fmt.Errorf("line %d: %w", number, err)
		}
		if message = append(message, increment); len(message) == incrementsPerMessage {
			messages <- message
			message = nil
		}
	}
	if lines.Err() == nil && len(message) > 0 {
		messages <- message
	}
	return lines.Err()
}

// parseIncrement splits a line at its last space: the name of the counter may have spaces.
func parseIncrement(line string) (*sumv1.Increment, error) {
	space := strings.LastIndexByte(line, ' ')
	if space < 0 {
		return nil, fmt.Errorf("%q is not a counter and a delta", line)
	}
	delta, err := parse([]string{line[space+1:]})
	if err != nil {
		return nil, err
	}
	return &sumv1.Increment{Counter: line[:space], Delta: delta[0]}, nil
}

// run opens one stream after the other until all messages are acknowledged.
func (s *session) run(ctx context.Context, client sumv1.CounterServiceClient) error {
	var (
		retry  backoff
		giveUp time.Time
	)
	for {
		err := s.stream(ctx, client)
		switch status.Code(err) {
		case codes.OK:
			return nil
		case codes.Unavailable, // the stream broke, or the server is stopping
			codes.DeadlineExceeded,  // the input was silent for too long
			codes.ResourceExhausted: // the server's memory is full, or failures are to be acknowledged first
		default:
			return err
		}
		if s.progress {
			s.progress, retry, giveUp = false, backoff{}, time.Now().Add(recordPatience)
		}
		wait := retry.next()
		if time.Now().Add(wait).After(giveUp) {
			return err
		}
		time.Sleep(wait)
	}
}

// stream exchanges messages on one stream. Only this goroutine uses the session. Two others carry its messages
// and the responses, because a Send may block until responses are received.
func (s *session) stream(ctx context.Context, client sumv1.CounterServiceClient) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := client.RecordIncrements(ctx)
	if err != nil {
		return err
	}
	requests, answers := make(chan *sumv1.RecordIncrementsRequest), make(chan answer)
	go send(stream, requests)
	go receive(ctx, stream, answers)
	err = s.exchange(requests, answers)
	close(requests)
	for err == nil && (<-answers).err == nil {
	}
	return err
}

func (s *session) exchange(requests chan<- *sumv1.RecordIncrementsRequest, answers <-chan answer) error {
	// This names the session. The response has the last acknowledged message, and the window.
	requests <- &sumv1.RecordIncrementsRequest{SessionId: s.id, SessionTime: s.time, Acknowledged: s.acknowledged}
	var sent, window uint64
	for !s.done() {
		// A direction that is not possible now has a nil channel, which is never ready.
		var input <-chan []*sumv1.Increment
		if uint64(len(s.unacknowledged)) < window {
			input = s.input
		}
		var output chan<- *sumv1.RecordIncrementsRequest
		var next *sumv1.RecordIncrementsRequest
		sent = max(sent, s.acknowledged)
		if sent < s.acknowledged+min(window, uint64(len(s.unacknowledged))) {
			output, next = requests, s.message(sent+1)
		}
		select {
		case message, more := <-input:
			s.keep(message, more)
		case output <- next:
			sent++
		case answer := <-answers:
			if answer.err != nil {
				return answer.err
			}
			s.acknowledge(answer.response)
			window = uint64(answer.response.GetWindow())
		}
	}
	// This lets the server drop the last failures.
	requests <- &sumv1.RecordIncrementsRequest{Acknowledged: s.acknowledged}
	return nil
}

func (s *session) message(sequence uint64) *sumv1.RecordIncrementsRequest {
	return &sumv1.RecordIncrementsRequest{
		Sequence:     sequence,
		Acknowledged: s.acknowledged,
		Increments:   s.unacknowledged[sequence-s.acknowledged-1],
	}
}

func (s *session) done() bool {
	return s.input == nil && len(s.unacknowledged) == 0
}

func (s *session) keep(message []*sumv1.Increment, more bool) {
	if !more {
		s.input = nil
		return
	}
	if s.read++; s.read > s.acknowledged { // otherwise an earlier run has sent it
		s.unacknowledged = append(s.unacknowledged, message)
	}
}

func (s *session) acknowledge(response *sumv1.RecordIncrementsResponse) {
	for _, failure := range response.GetFailures() {
		if failure.GetSequence() <= s.acknowledged {
			continue // known from an earlier stream
		}
		s.failed++
		why := status.FromProto(failure.GetError())
		fmt.Printf("failed %d %d %v reason=%s\n",
			failure.GetSequence(), failure.GetIndex(), code.Code(why.Code()), reason(why))
	}
	news := max(response.GetAcknowledged(), s.acknowledged) - s.acknowledged
	s.unacknowledged = s.unacknowledged[min(news, uint64(len(s.unacknowledged))):]
	s.acknowledged += news
	// A stream on which nothing was left to do counts as progress, too.
	s.progress = s.progress || news > 0 || len(s.unacknowledged) == 0
}

type answer struct {
	response *sumv1.RecordIncrementsResponse
	err      error // set in the last answer only
}

// send goes on after a failure: Recv returns its reason.
func send(stream sumv1.CounterService_RecordIncrementsClient, requests <-chan *sumv1.RecordIncrementsRequest) {
	for request := range requests {
		_ = stream.Send(request)
	}
	_ = stream.CloseSend()
}

func receive(ctx context.Context, stream sumv1.CounterService_RecordIncrementsClient, answers chan<- answer) {
	for {
		response, err := stream.Recv()
		if err == io.EOF {
			err = errEndedEarly // ignored if everything is acknowledged
		}
		select {
		case answers <- answer{response, err}:
		case <-ctx.Done():
			return
		}
		if err != nil {
			return
		}
	}
}
