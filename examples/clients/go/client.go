// Calls an aixgo agent: gen/client call|stream|cancel HOST:PORT AGENT TEXT [SECONDS]. README.md tells more.
//
// Prints one JSON object a line, and ends with 1 when the call failed.
package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	aixgo "aixgo/v1"
)

const usageText = "usage: client call|stream|cancel HOST:PORT AGENT TEXT [SECONDS]"

// line is one line of output; encoding/json sorts its keys.
type line map[string]interface{}

// caller calls one agent.
type caller struct {
	stub  aixgo.AgentServiceClient
	agent string
}

func main() {
	if len(os.Args) < 5 {
		fmt.Fprintln(os.Stderr, usageText)
		os.Exit(2)
	}
	verb, address, agent, text := os.Args[1], os.Args[2], os.Args[3], os.Args[4]
	seconds := 30.0
	if len(os.Args) > 5 {
		var err error
		if seconds, err = strconv.ParseFloat(os.Args[5], 64); err != nil {
			fmt.Fprintln(os.Stderr, usageText)
			os.Exit(2)
		}
	}
	connection, err := grpc.Dial(address, grpc.WithInsecure())
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	defer connection.Close()

	// The deadline holds for the whole call tree, in every process that it reaches.
	ctx, stop := context.WithTimeout(context.Background(), time.Duration(seconds*float64(time.Second)))
	defer stop()
	ctx = metadata.AppendToOutgoingContext(ctx, "traceparent", traceparent())
	c := caller{aixgo.NewAgentServiceClient(connection), agent}
	if err := c.run(ctx, verb, text); err != nil {
		printFailure(err)
		os.Exit(1)
	}
}

func (c caller) run(ctx context.Context, verb, text string) error {
	switch verb {
	case "call":
		return c.call(ctx, text)
	case "stream":
		return c.stream(ctx, text)
	case "cancel":
		return c.cancel(ctx, text)
	}
	return errors.New(usageText)
}

func (c caller) call(ctx context.Context, text string) error {
	message, callContext := request(text)
	response, err := c.stub.Execute(ctx, &aixgo.ExecuteRequest{Agent: c.agent, Message: message, Context: callContext})
	if err != nil {
		return err
	}
	printLine(line{
		"reply":    payload(response.GetMessage()),
		"instance": response.GetInstanceId(),
		"usage":    usage(response.GetMessage().GetUsage()),
	})
	return nil
}

func (c caller) stream(ctx context.Context, text string) error {
	message, callContext := request(text)
	wanted := &aixgo.ExecuteStreamRequest{Agent: c.agent, Message: message, Context: callContext}
	events, err := c.stub.ExecuteStream(ctx, wanted)
	if err != nil {
		return err
	}
	terminal := false
	for {
		frame, err := events.Recv()
		if err == io.EOF && terminal {
			return nil
		}
		if err == io.EOF {
			return errors.New("the stream broke off: it ended without a terminal frame")
		}
		if err != nil {
			return err
		}
		if event := frame.GetEvent(); event != nil { // an error frame is followed by the same error as the RPC's status
			printLine(described(event))
			terminal = event.GetResult() != nil
		}
	}
}

// cancel leaves a stream as soon as one member of an orchestrator is done, and asks what was spent.
func (c caller) cancel(ctx context.Context, text string) error {
	message, callContext := request(text)
	wanted := &aixgo.ExecuteStreamRequest{Agent: c.agent, Message: message, Context: callContext}
	if err := c.untilMemberFinished(ctx, wanted); err != nil {
		return err
	}
	answer, err := c.stub.Cancel(ctx, &aixgo.CancelRequest{CallId: callContext.CallId})
	if err != nil {
		return err
	}
	printLine(line{"cancelled": answer.GetFound(), "usage": usage(answer.GetUsage())})
	return nil
}

func (c caller) untilMemberFinished(ctx context.Context, wanted *aixgo.ExecuteStreamRequest) error {
	ctx, leave := context.WithCancel(ctx)
	defer leave() // ends the RPC, which cancels the agent
	events, err := c.stub.ExecuteStream(ctx, wanted)
	if err != nil {
		return err
	}
	for {
		frame, err := events.Recv()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if event := frame.GetEvent(); event != nil {
			printLine(described(event))
		}
		if frame.GetEvent().GetMemberFinished() != nil {
			return nil
		}
	}
}

// request is what every call says: the message, and an id that Cancel can name.
func request(text string) (*aixgo.Message, *aixgo.CallContext) {
	message := &aixgo.Message{Payload: &aixgo.Message_Text{Text: text}}
	return message, &aixgo.CallContext{CallId: randomHex(16)}
}

// traceparent is the trace that the call belongs to: the environment's, else a new one.
func traceparent() string {
	if given := os.Getenv("TRACEPARENT"); given != "" {
		return given
	}
	return "00-" + randomHex(16) + "-" + randomHex(8) + "-01"
}

func randomHex(bytes int) string {
	random := make([]byte, bytes)
	if _, err := rand.Read(random); err != nil {
		panic(err) // the system has no randomness
	}
	return hex.EncodeToString(random)
}

func described(event *aixgo.Event) line {
	described := line{"path": event.GetAgentPath()}
	switch kind := event.GetKind().(type) {
	case *aixgo.Event_Delta:
		described["event"], described["text"] = "delta", kind.Delta.GetText()
	case *aixgo.Event_ToolCall:
		described["event"] = "tool_call"
	case *aixgo.Event_MemberStarted:
		described["event"] = "member_started"
	case *aixgo.Event_MemberFinished:
		described["event"] = "member_finished"
	case *aixgo.Event_Result:
		described["event"] = "result"
		described["reply"] = payload(kind.Result.GetMessage())
		described["usage"] = usage(kind.Result.GetMessage().GetUsage())
	}
	return described
}

// payload is what a message says: text, a JSON value, or bytes (base64 in JSON).
func payload(message *aixgo.Message) interface{} {
	switch payload := message.GetPayload().(type) {
	case *aixgo.Message_Json:
		return json.RawMessage(payload.Json)
	case *aixgo.Message_Data:
		return payload.Data
	}
	return message.GetText()
}

// usage is what was spent; unset is nothing. USD stay the decimal text that they are.
func usage(spent *aixgo.Usage) line {
	return line{
		"tokens":     spent.GetPromptTokens() + spent.GetCompletionTokens(),
		"cost_usd":   spent.GetCostUsd(),
		"incomplete": spent.GetIncomplete(),
	}
}

// details is the aixgo.v1.Error that a failed RPC carries; nil: the transport, or a proxy, is what failed.
func details(failure *status.Status) *aixgo.Error {
	for _, detail := range failure.Details() {
		if known, ok := detail.(*aixgo.Error); ok {
			return known
		}
	}
	return nil
}

func printFailure(err error) {
	failure, ok := status.FromError(err)
	if !ok {
		fmt.Fprintln(os.Stderr, err)
		return
	}
	failed := line{"error": nil, "code": codeName(failure.Code()), "message": failure.Message(), "path": []string{}}
	known := details(failure)
	if known != nil {
		failed["error"], failed["message"] = known.GetErrorClass(), known.GetMessage()
		failed["path"] = append([]string{}, known.GetAgentPath()...)
	}
	failed["usage"], failed["not_accepted"] = usage(known.GetUsage()), known.GetNotAccepted()
	printLine(failed)
}

// codeName spells a code as the specification does; Go's own spelling differs (DeadlineExceeded).
func codeName(code codes.Code) string {
	names := []string{
		"OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS",
		"PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED",
		"INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED",
	}
	if int(code) < len(names) {
		return names[code]
	}
	return code.String()
}

func printLine(printed line) {
	encoded, err := json.Marshal(printed)
	if err != nil {
		fmt.Fprintln(os.Stderr, "the agent's reply is no JSON:", err)
		os.Exit(1)
	}
	fmt.Println(string(encoded))
}
