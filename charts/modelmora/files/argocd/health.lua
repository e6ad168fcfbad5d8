-- The health of a ModelDeployment for Argo CD, from the conditions that the operator writes.
local function condition(name)
  local conditions = (obj.status or {}).conditions or {}
  for _, found in ipairs(conditions) do
    if found.type == name then
      return found
    end
  end
  return {}
end

local function health(status, said)
  local words = said.reason or ""
  if said.message ~= nil and said.message ~= "" then
    words = words .. ": " .. said.message
  end
  return { status = status, message = words }
end

local ready = condition("Ready")
local stalled = condition("Stalled")
local reconciling = condition("Reconciling")
local seen = (obj.status or {}).observedGeneration or 0

if ready.status == nil then
  return { status = "Progressing", message = "the operator has not looked at it yet" }
end
if obj.metadata.generation ~= nil and seen < obj.metadata.generation then
  return { status = "Progressing", message = "the operator has not looked at the last change yet" }
end
if stalled.status == "True" then
  return health("Degraded", stalled)
end
if ready.reason == "Suspended" then
  return health("Suspended", ready)
end
if ready.status == "True" then
  return health("Healthy", ready)
end
-- Room may be on its way, by a cluster autoscaler for one.
if ready.status == "False" and ready.reason ~= "Unschedulable" then
  return health("Degraded", ready)
end
if reconciling.status == "True" then
  return health("Progressing", ready)
end
if ready.status == "False" then
  return health("Degraded", ready)
end
-- Nobody has asked for it, and it is not to prove itself before (initialReplicas: 0): nothing more will happen.
return health("Healthy", ready)
