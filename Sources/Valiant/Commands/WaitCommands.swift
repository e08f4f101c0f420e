/// WAITAOF: has a client wait until what has been changed is kept.
enum WaitCommands: CommandFamily {
  static let category = Command.Category.keyspace

  static let commands: [Command] = [
    Command(
      "WAITAOF numlocal numreplicas timeout", arity: 4, flags: [.blocking, .connection],
      tips: ["request_policy:all_shards", "response_policy:agg_min"],
      summary:
        "Blocks until all changes so far are on the disk with the append log, or until the timeout.",
      since: "7.2.0", handler: waitForLog)
  ]

  private static func waitForLog(_ context: inout CommandContext) throws(CommandError) {
    let locals = try number(context, 1, through: 1)
    let replicas = try number(context, 2, through: Int(Int32.max))
    guard let milliseconds = context.request[3].integer else { throw .notATimeout }
    if milliseconds < 0 { throw .negativeTimeout }
    guard milliseconds <= Int.max / 2 - Clock.steadyMilliseconds else { throw .notATimeout }
    let log = context.server.appendOnly
    if locals > 0, log.logReport == nil { throw .noLogToWaitFor }
    let isDurable = log.isDurable
    // There are no replicas.
    if context.isInTransaction || (replicas == 0 && (locals == 0 || isDurable)) {
      context.reply.array(2)
      context.reply.integer(isDurable ? 1 : 0)
      context.reply.integer(0)
      return
    }
    log.wait(
      client: context.client.id, worker: context.worker.index, isSilent: context.isSilent,
      isHopeless: replicas > 0, milliseconds: milliseconds)
    context.client.isWaiting = true
  }

  private static func number(
    _ context: borrowing CommandContext, _ index: Int, through most: Int
  ) throws(CommandError) -> Int {
    let number = try context.integer(index)
    guard (0...most).contains(number) else { throw .outOfRange(0, most) }
    return number
  }
}
