"""Health and server reflection, on the same port."""

import grpc
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub
from grpc_reflection.v1alpha.reflection_pb2 import (
    ServerReflectionRequest,
    ServerReflectionResponse,
)

from calls import WAIT_SECONDS

SERVING = HealthCheckResponse.SERVING
SERVED = ["treering.v1.EventStoreService", "treering.v1.StreamService"]
REFLECTION = ["grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection"]


@pytest.mark.parametrize("service", ["", *SERVED])
async def test_health_answers_for_the_server_and_each_service(channel, service):
    response = await HealthStub(channel).Check(HealthCheckRequest(service=service))

    assert response.status == SERVING


@pytest.mark.parametrize("service", ["", *SERVED])
async def test_health_can_be_watched(channel, service):
    call = HealthStub(channel).Watch(HealthCheckRequest(service=service), timeout=WAIT_SECONDS)

    assert (await call.read()).status == SERVING
    call.cancel()


@pytest.mark.parametrize(
    "service", ["other", "treering.v1.ConsumerGroupService", "EventStoreService"]
)
async def test_health_knows_no_other_service(channel, service):
    with pytest.raises(grpc.RpcError) as error:
        await HealthStub(channel).Check(HealthCheckRequest(service=service))

    assert error.value.code() == grpc.StatusCode.NOT_FOUND


async def reflect(channel, service: str, **request) -> ServerReflectionResponse:
    """Asks for one thing. Both versions of the protocol have the same messages."""
    call = channel.stream_stream(
        f"/{service}/ServerReflectionInfo",
        request_serializer=ServerReflectionRequest.SerializeToString,
        response_deserializer=ServerReflectionResponse.FromString,
    )(iter([ServerReflectionRequest(**request)]), timeout=WAIT_SECONDS)
    [response] = [response async for response in call]
    return response


@pytest.mark.parametrize("reflection", REFLECTION)
async def test_reflection_lists_what_is_served(channel, reflection):
    response = await reflect(channel, reflection, list_services="")

    names = {service.name for service in response.list_services_response.service}
    assert names >= {*SERVED, "grpc.health.v1.Health"}
    assert "treering.v1.ConsumerGroupService" not in names


@pytest.mark.parametrize("reflection", REFLECTION)
@pytest.mark.parametrize("symbol", [*SERVED, "treering.v1.ReadRequest", "treering.v1.Failure"])
async def test_reflection_gives_file_descriptors_by_symbol(channel, reflection, symbol):
    response = await reflect(channel, reflection, file_containing_symbol=symbol)

    files = [
        FileDescriptorProto.FromString(data)
        for data in response.file_descriptor_response.file_descriptor_proto
    ]
    symbols = {
        f"{file.package}.{part.name}"
        for file in files
        for part in (*file.service, *file.message_type)
    }
    assert symbol in symbols


@pytest.mark.parametrize("reflection", REFLECTION)
@pytest.mark.parametrize("name", ["treering/v1/query.proto", "treering/v1/failure.proto"])
async def test_reflection_gives_file_descriptors_by_name(channel, reflection, name):
    response = await reflect(channel, reflection, file_by_filename=name)

    files = response.file_descriptor_response.file_descriptor_proto
    assert name in {FileDescriptorProto.FromString(data).name for data in files}


@pytest.mark.parametrize("reflection", REFLECTION)
async def test_reflection_says_what_is_not_there(channel, reflection):
    response = await reflect(channel, reflection, file_containing_symbol="treering.v1.Nothing")

    assert response.error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]
