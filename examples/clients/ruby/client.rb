# frozen_string_literal: true

# Calls an aixgo agent: `ruby client.rb call|stream|cancel HOST:PORT AGENT TEXT [SECONDS]`. README.md tells more.
#
# Prints one JSON object a line, and ends with 1 when the call failed.

$LOAD_PATH.unshift(File.join(__dir__, 'gen')) # the generated code requires its parts by their proto path

require 'google/protobuf/well_known_types' # Any#is, Any#unpack
require 'grpc'
require 'grpc/google_rpc_status_utils'
require 'json'
require 'securerandom'
require 'aixgo/v1/agent_services_pb'

# One way to call one agent, and what comes of it as JSON lines.
class Client
  CODES = GRPC::Core::StatusCodes.constants.to_h { |name| [GRPC::Core::StatusCodes.const_get(name), name] }

  def initialize(address, agent, seconds)
    @stub = Aixgo::V1::AgentService::Stub.new(address, :this_channel_is_insecure)
    @agent = agent
    @seconds = seconds
  end

  def call(text)
    response = @stub.execute(request(Aixgo::V1::ExecuteRequest, text), **options)
    print_line(reply: payload(response.message), instance: response.instance_id, usage: usage(response.message.usage))
  end

  def stream(text)
    terminal = false
    @stub.execute_stream(request(Aixgo::V1::ExecuteStreamRequest, text), **options).each do |frame|
      next if frame.frame == :error # the RPC ends with the same error, which is raised here

      print_line(described(frame.event))
      terminal = frame.event.kind == :result
    end
    raise 'the stream broke off: it ended without a terminal frame' unless terminal
  end

  # Leaves a stream as soon as one member of an orchestrator is done, and asks what was spent.
  def cancel(text)
    wanted = request(Aixgo::V1::ExecuteStreamRequest, text)
    operation = @stub.execute_stream(wanted, return_op: true, **options)
    operation.execute.each do |frame|
      print_line(described(frame.event)) if frame.event
      break if frame.event&.member_finished
    end
    operation.cancel # ends the RPC, which cancels the agent
    asked = Aixgo::V1::CancelRequest.new(call_id: wanted.context.call_id)
    answer = @stub.cancel(asked, deadline: Time.now + 1)
    print_line(cancelled: answer.found, usage: usage(answer.usage))
  end

  # The aixgo.v1.Error that a failed RPC carries. nil: the transport, or a proxy, is what failed.
  def self.details(failure)
    status = GRPC::GoogleRpcStatusUtils.extract_google_rpc_status(failure.to_status)
    status&.details&.find { |detail| detail.is(Aixgo::V1::Error) }&.unpack(Aixgo::V1::Error)
  end

  def failed(failure)
    known = self.class.details(failure)
    print_line(
      error: known&.error_class, code: CODES[failure.code], message: known&.message || failure.details,
      path: known&.agent_path.to_a, usage: usage(known&.usage), not_accepted: known&.not_accepted || false
    )
  end

  private

  # Every call names the agent and carries an id that Cancel can name.
  def request(type, text)
    context = Aixgo::V1::CallContext.new(call_id: SecureRandom.hex(16))
    type.new(agent: @agent, message: Aixgo::V1::Message.new(text: text), context: context)
  end

  # The deadline holds for the whole call tree; the trace is the environment's, else a new one.
  def options
    fresh = "00-#{SecureRandom.hex(16)}-#{SecureRandom.hex(8)}-01"
    { deadline: Time.now + @seconds, metadata: { 'traceparent' => ENV.fetch('TRACEPARENT', fresh) } }
  end

  def described(event)
    line = { event: event.kind, path: event.agent_path.to_a }
    line[:text] = event.delta.text if event.delta
    line.update(reply: payload(event.result.message), usage: usage(event.result.message.usage)) if event.result
    line
  end

  # What a message says: text, a JSON value, or bytes.
  def payload(message)
    case message&.payload
    when :json then JSON.parse(message.json)
    when :data then message.data
    else message&.text.to_s
    end
  end

  # An unset usage is none: the call cost nothing. USD stay the decimal text that they are.
  def usage(spent)
    spent ||= Aixgo::V1::Usage.new
    { tokens: spent.prompt_tokens + spent.completion_tokens, cost_usd: spent.cost_usd, incomplete: spent.incomplete }
  end

  def print_line(line)
    puts JSON.generate(line)
  end
end

verb, address, agent, text, seconds = ARGV
unless %w[call stream cancel].include?(verb) && agent
  abort 'usage: ruby client.rb call|stream|cancel HOST:PORT AGENT TEXT [SECONDS]'
end

client = Client.new(address, agent, Float(seconds || 30))
begin
  client.public_send(verb, text.to_s)
rescue GRPC::BadStatus => e
  client.failed(e)
  exit 1
end
