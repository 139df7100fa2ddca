// google.golang.org/grpc against an engine: unary, stream, deadline, cancel, errors, compression. Prints a line for each.
// See README.md for how it is built.
package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/status"

	pb "inference"
)

func ask(model string, values ...float32) *pb.ModelInferRequest {
	raw := make([]byte, 4*len(values))
	for i, v := range values {
		binary.LittleEndian.PutUint32(raw[4*i:], math.Float32bits(v))
	}
	x := &pb.ModelInferRequest_InferInputTensor{Name: "x", Datatype: "FP32", Shape: []int64{1, int64(len(values))}}
	return &pb.ModelInferRequest{ModelName: model, Id: "go", Inputs: []*pb.ModelInferRequest_InferInputTensor{x}, RawInputContents: [][]byte{raw}}
}

func first(answer *pb.ModelInferResponse) float32 {
	return math.Float32frombits(binary.LittleEndian.Uint32(answer.RawOutputContents[0]))
}

func main() {
	connection, err := grpc.Dial(os.Args[1], grpc.WithInsecure())
	if err != nil {
		panic(err)
	}
	client := pb.NewGRPCInferenceServiceClient(connection)
	background := context.Background()
	live, err := client.ServerLive(background, &pb.ServerLiveRequest{})
	fmt.Println("live", live.GetLive(), err)
	metadata, err := client.ModelMetadata(background, &pb.ModelMetadataRequest{Name: "marked"})
	fmt.Println("metadata", metadata.GetVersions(), metadata.GetInputs(), err)
	answer, err := client.ModelInfer(background, ask("marked", 1, 2, 3))
	fmt.Println("unary", answer.GetId(), first(answer), err)
	answer, err = client.ModelInfer(background, ask("echo_fp32", make([]float32, 300000)...), grpc.UseCompressor(gzip.Name))
	fmt.Println("gzip", len(answer.RawOutputContents[0]), err)
	_, err = client.ModelInfer(background, ask("nobody", 1))
	fmt.Println("unknown", status.Code(err), status.Convert(err).Message())
	short, stop := context.WithTimeout(background, 200*time.Millisecond)
	_, err = client.ModelInfer(short, ask("gate", 1, 2))
	stop()
	fmt.Println("deadline", status.Code(err))
	cancelled, cancel := context.WithCancel(background)
	time.AfterFunc(100*time.Millisecond, cancel)
	_, err = client.ModelInfer(cancelled, ask("gate", 1, 2))
	fmt.Println("cancelled", status.Code(err))
	stream, err := client.ModelStreamInfer(background)
	if err != nil {
		panic(err)
	}
	for _, n := range []float32{1, 2, -1, 3} {
		if err := stream.Send(ask("marked", n, n, n)); err != nil {
			panic(err)
		}
	}
	_ = stream.CloseSend()
	for {
		one, err := stream.Recv()
		if err == io.EOF {
			break
		}
		if err != nil {
			panic(err)
		}
		if one.ErrorMessage != "" {
			fmt.Println("stream", one.ErrorMessage)
		} else {
			fmt.Println("stream", first(one.InferResponse))
		}
	}
	done := make(chan float32, 100)
	for n := 0; n < 100; n++ {
		go func(n float32) {
			answer, err := client.ModelInfer(background, ask("marked", n, n, n))
			if err != nil {
				panic(err)
			}
			done <- first(answer) - 2*n
		}(float32(n))
	}
	var wrong float32
	for n := 0; n < 100; n++ {
		wrong += <-done
	}
	fmt.Println("parallel", wrong)
}
