import com.google.protobuf.ByteString;
import com.google.protobuf.Message;
import grpc.reflection.v1alpha.Reflection.ServerReflectionRequest;
import grpc.reflection.v1alpha.Reflection.ServerReflectionResponse;
import inference.GrpcService.ModelInferRequest;
import inference.GrpcService.ModelInferResponse;
import inference.GrpcService.ModelStreamInferResponse;
import io.grpc.CallOptions;
import io.grpc.ManagedChannel;
import io.grpc.ManagedChannelBuilder;
import io.grpc.MethodDescriptor;
import io.grpc.MethodDescriptor.MethodType;
import io.grpc.StatusRuntimeException;
import io.grpc.protobuf.ProtoUtils;
import io.grpc.stub.ClientCalls;
import io.grpc.stub.StreamObserver;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.Future;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;

/** grpc-java and java.net.http as they come: Client GRPC REST, both HOST:PORT. The model `gate` must not answer. */
public class Client {
    static final String SERVICE = "inference.GRPCInferenceService/";
    static final MethodDescriptor<ModelInferRequest, ModelInferResponse> INFER =
        method(SERVICE + "ModelInfer", MethodType.UNARY, ModelInferRequest.getDefaultInstance(), ModelInferResponse.getDefaultInstance());

    static <A extends Message, B extends Message> MethodDescriptor<A, B> method(String name, MethodType type, A ask, B answer) {
        return MethodDescriptor.<A, B>newBuilder().setType(type).setFullMethodName(name)
            .setRequestMarshaller(ProtoUtils.marshaller(ask)).setResponseMarshaller(ProtoUtils.marshaller(answer)).build();
    }

    static ModelInferRequest ask(String model, float... values) {
        ByteBuffer raw = ByteBuffer.allocate(4 * values.length).order(ByteOrder.LITTLE_ENDIAN);
        for (float value : values) raw.putFloat(value);
        var input = ModelInferRequest.InferInputTensor.newBuilder().setName("x").setDatatype("FP32").addShape(1).addShape(values.length);
        return ModelInferRequest.newBuilder().setModelName(model).setId("java").addInputs(input)
            .addRawInputContents(ByteString.copyFrom(raw.array())).build();
    }

    static float first(ModelInferResponse answer) {
        return answer.getRawOutputContents(0).asReadOnlyByteBuffer().order(ByteOrder.LITTLE_ENDIAN).getFloat(0);
    }

    static <T> StreamObserver<T> into(BlockingQueue<Object> queue) {
        return new StreamObserver<>() {
            public void onNext(T answer) { queue.add(answer); }
            public void onError(Throwable error) { queue.add(error); }
            public void onCompleted() { queue.add("end"); }
        };
    }

    public static void main(String[] addresses) throws Exception {
        ManagedChannel channel = ManagedChannelBuilder.forTarget(addresses[0]).usePlaintext().maxInboundMessageSize(1 << 30).build();
        CallOptions plain = CallOptions.DEFAULT;
        System.out.println("raw " + first(ClientCalls.blockingUnaryCall(channel, INFER, plain, ask("marked", 1, 2, 3))));
        var typed = ask("marked", 1, 2, 3).toBuilder().clearRawInputContents();
        typed.getInputsBuilder(0).getContentsBuilder().addAllFp32Contents(List.of(4f, 5f, 6f));
        System.out.println("typed " + first(ClientCalls.blockingUnaryCall(channel, INFER, plain, typed.build())));
        System.out.println("gzip " + first(ClientCalls.blockingUnaryCall(channel, INFER, plain.withCompression("gzip"), ask("marked", 3, 2, 1))));
        var large = ClientCalls.blockingUnaryCall(channel, INFER, plain, ask("echo_fp32", new float[1 << 20]));
        System.out.println("large " + large.getRawOutputContents(0).size());
        for (String model : List.of("nobody", "pair", "count", "gate")) {
            try {
                ClientCalls.blockingUnaryCall(channel, INFER, plain.withDeadlineAfter(2, TimeUnit.SECONDS), ask(model, 1, 2));
            } catch (StatusRuntimeException error) {
                System.out.println(model + " " + error.getStatus().getCode() + " " + error.getStatus().getDescription());
            }
        }
        List<Future<ModelInferResponse>> calls = new ArrayList<>();
        for (int i = 0; i < 100; i++) calls.add(ClientCalls.futureUnaryCall(channel.newCall(INFER, plain), ask("marked", i, 0, 0)));
        int right = 0;
        for (int i = 0; i < 100; i++) if (first(calls.get(i).get(60, TimeUnit.SECONDS)) == 2 * i) right++;
        System.out.println("parallel " + right);
        stream(channel);
        reflection(channel);
        channel.shutdownNow();
        rest("http://" + addresses[1] + "/v2/models/");
    }

    static void stream(ManagedChannel channel) throws Exception {
        var method = method(
            SERVICE + "ModelStreamInfer", MethodType.BIDI_STREAMING, ModelInferRequest.getDefaultInstance(), ModelStreamInferResponse.getDefaultInstance());
        BlockingQueue<Object> answers = new LinkedBlockingQueue<>();
        var requests = ClientCalls.asyncBidiStreamingCall(channel.newCall(method, CallOptions.DEFAULT), Client.<ModelStreamInferResponse>into(answers));
        for (String model : List.of("marked", "nobody", "marked")) requests.onNext(ask(model, 1, 2, 3));
        requests.onCompleted();
        for (int i = 0; i < 3; i++) {
            var answer = (ModelStreamInferResponse) answers.poll(60, TimeUnit.SECONDS);
            System.out.println("stream '" + answer.getErrorMessage() + "' " + answer.getInferResponse().getId());
        }
        System.out.println("stream " + answers.poll(60, TimeUnit.SECONDS));
    }

    static void reflection(ManagedChannel channel) throws Exception {
        var list = ServerReflectionRequest.newBuilder().setListServices("").build();
        var method = method(
            "grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", MethodType.BIDI_STREAMING, list, ServerReflectionResponse.getDefaultInstance());
        BlockingQueue<Object> answers = new LinkedBlockingQueue<>();
        var requests = ClientCalls.asyncBidiStreamingCall(channel.newCall(method, CallOptions.DEFAULT), Client.<ServerReflectionResponse>into(answers));
        requests.onNext(list);
        requests.onCompleted();
        var answer = (ServerReflectionResponse) answers.poll(60, TimeUnit.SECONDS);
        answer.getListServicesResponse().getServiceList().forEach(service -> System.out.println("service " + service.getName()));
    }

    /** The client offers HTTP/2 by Upgrade, as it does by default. */
    static void rest(String models) throws Exception {
        HttpClient client = HttpClient.newHttpClient();
        String body = "{\"inputs\":[{\"name\":\"x\",\"datatype\":\"FP32\",\"shape\":[1,3],\"data\":[1,2,3]}]}";
        var known = HttpRequest.newBuilder(URI.create(models + "marked/infer")).POST(HttpRequest.BodyPublishers.ofString(body));
        var chunked = HttpRequest.newBuilder(URI.create(models + "marked/infer")).expectContinue(true)
            .POST(HttpRequest.BodyPublishers.ofInputStream(() -> new java.io.ByteArrayInputStream(body.getBytes())));
        for (var request : List.of(known, chunked, HttpRequest.newBuilder(URI.create(models + "nobody")))) {
            var answer = client.send(request.build(), HttpResponse.BodyHandlers.ofString());
            System.out.println("rest " + answer.statusCode() + " " + answer.body());
        }
    }
}
